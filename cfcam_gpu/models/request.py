"""What `load_model` asks of the module that loads a kind of model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cfcam_gpu._utils.messages import plural
from cfcam_gpu.errors import ModelError
from cfcam_gpu.images.preprocess import PUBLISHED_PREPROCESS
from cfcam_gpu.models.loaded import LoadedModel

#: `LoadedModel.weights` of a model that nothing was loaded into.
UNTRAINED = "untrained (random, seed 0)"


@dataclass(frozen=True)
class Request:
    """A model to load.

    Attributes:
        spec: the whole specification, for messages.
        name: the specification without its kind and the first colon.
        state: tensors of the user's weights file, which `load_model` copies into the model afterwards,
            so that no other weights are needed; None: there is no such file.
        num_classes: number of outputs; None: the architecture's own.
        channels: number of input channels; None: the architecture's own.
    """

    spec: str
    name: str
    state: dict[str, Tensor] | None
    num_classes: int | None
    channels: int | None = None

    def refuse_untrained_head(self) -> None:
        """Raises ModelError for a number of classes without a weights file.

        Pretrained weights have their own number of outputs; a layer with another number would be random.
        """
        if self.state is None and self.num_classes is not None:
            raise ModelError(
                f"{self.num_classes} classes give {self.spec} an untrained head, which explains nothing; "
                "pass the trained weights with --weights FILE"
            )

    def refuse_untrained_input(self) -> None:
        """Raises ModelError for a number of input channels that no pretrained weights have, without a weights file."""
        if self.state is None and self.channels not in (None, 3):
            raise ModelError(
                f"the pretrained weights of {self.spec} take 3 channels, not {self.channels}; pass weights that were "
                f"trained with {plural(self.channels or 0, 'channel')} with --weights FILE"
            )

    def model_arguments(self) -> dict[str, int]:
        """Keyword arguments for the function that makes the model."""
        return {} if self.num_classes is None else {"num_classes": self.num_classes}

    def untrained(self, make: Callable[[], nn.Module]) -> LoadedModel:
        """The model with random weights, the same in every run; a weights file replaces them."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return LoadedModel(make(), PUBLISHED_PREPROCESS, None, self.spec, UNTRAINED)
