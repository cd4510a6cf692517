"""pytorch-grad-cam's targets: functions of one image's output, (classes,)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cfcam_gpu.compat.pytorch_grad_cam.missing import missing


@dataclass
class ClassifierOutputTarget:
    """The logit of a class.

    Example:
        >>> ClassifierOutputTarget(1)(torch.tensor([0.5, 2.0]))
        tensor(2.)
    """

    category: int

    def __call__(self, model_output: Tensor) -> Tensor:
        return model_output[..., self.category]


@dataclass
class ClassifierOutputSoftmaxTarget:
    """The probability of a class."""

    category: int

    def __call__(self, model_output: Tensor) -> Tensor:
        return model_output.softmax(-1)[..., self.category]


@dataclass
class ClassifierOutputReST:
    """The logit and the logarithm of the probability of a class, added (arXiv 2501.06261)."""

    category: int

    def __call__(self, model_output: Tensor) -> Tensor:
        return model_output[..., self.category] + F.log_softmax(model_output, -1)[..., self.category]


@dataclass
class BinaryClassifierOutputTarget:
    """The only output for category 1, its negative for category 0."""

    category: int

    def __call__(self, model_output: Tensor) -> Tensor:
        return model_output if self.category == 1 else -model_output


class SoftmaxOutputTarget:
    """All probabilities."""

    def __call__(self, model_output: Tensor) -> Tensor:
        return model_output.softmax(-1)


class RawScoresOutputTarget:
    """The output itself."""

    def __call__(self, model_output: Tensor) -> Tensor:
        return model_output


class SemanticSegmentationTarget:
    """The sum of a category's scores (category,H,W) inside a mask (H,W)."""

    def __init__(self, category: int, mask: Any) -> None:
        self.category = category
        self.mask = torch.as_tensor(mask)

    def __call__(self, model_output: Tensor) -> Tensor:
        return (model_output[self.category] * self.mask.to(model_output.device)).sum()


@dataclass
class FinerWeightedTarget:
    """How far the logit of a class lies above those of others, each times `alpha` and weighted by its probability.

    Example:
        >>> FinerWeightedTarget(0, [1, 2], alpha=0.5)(torch.tensor([2.0, 1.0, 1.0]))
        tensor(1.5000)
    """

    main_category: int
    comparison_categories: Sequence[int]
    alpha: float

    def __call__(self, model_output: Tensor) -> Tensor:
        others = list(self.comparison_categories)
        weights = model_output.softmax(-1)[..., others]
        above = model_output[..., [self.main_category]] - self.alpha * model_output[..., others]
        return (weights * above).sum(-1) / (weights.sum(-1) + 1e-9)


def __getattr__(name: str) -> object:
    raise missing(__name__, name)
