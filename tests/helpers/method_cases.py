"""Methods by what they need, a small model whose gradients differ everywhere, and one call of a method on it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cfcam_gpu import CFCAM
from cfcam_gpu.explanation import Explanation
from cfcam_gpu.methods import METHODS
from tests.helpers.smallnet import Net

#: float32 rounding of sums over 24 channels.
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}

#: Methods whose map has nothing to do with the class.
CLASSLESS = {"eigencam", "fem", "random"}
GRADIENTS = {name for name, method in METHODS.items() if method.uses_gradients}
CLUSTERS = {name for name, method in METHODS.items() if method.is_cfcam}
#: Methods that ask for probabilities of classes, and for the values of functions.
CONFIDENCE = {name for name, method in METHODS.items() if method.function.startswith("confidence:")}
#: Methods whose map for a function is that for the class whose logit it returns.
LOGITS = sorted(name for name, method in METHODS.items() if not method.contrasts and name not in CONFIDENCE)
#: Methods that `explain_activations` runs.
ALONE = {name for name, method in METHODS.items() if not method.needs_model}


class Deeper(Net):
    """`Net` with a nonlinearity behind the layer, so that gradients differ from cell to cell and image to image."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(4)
            self.behind = nn.Conv2d(24, 24, 3, padding=1)
            nn.init.normal_(self.head.weight)

    def forward(self, images: Tensor) -> Tensor:
        features = self.behind(self.conv(self.stem(images)).relu()).relu()
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits


def explain(model: nn.Module, method: str, images: Tensor, targets: Any = None, **kwargs: Any) -> Explanation:
    """A call of `CFCAM(model, "conv:relu", method=method, **kwargs)`."""
    with CFCAM(model, "conv:relu", method=method, **kwargs) as cam:
        return cam(images, targets)
