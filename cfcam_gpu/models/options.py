"""Which model to load and how, as one value that other processes can receive. Imports no PyTorch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cfcam_gpu.models.loaded import LoadedModel

#: Number formats that a model can be converted to (see `prepare.prepared`): names of torch dtypes.
PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class ModelOptions:
    """The arguments of `load_model`, kept until the model is needed.

    It can be pickled, so that each process of a distributed run loads the model by itself.

    Attributes:
        model: the specification, written as one of `FORMS`.
        weights, num_classes, class_names, size, mean, std: as for `load_model`.

    Example:
        >>> options = ModelOptions("torchvision:squeezenet1_1@none", num_classes=2, size=(64, 64))
        >>> options.load().preprocess.size
        (64, 64)
    """

    model: str = "efficientnet-lite0"
    weights: Path | None = None
    num_classes: int | None = None
    class_names: Path | None = None
    size: tuple[int, int] | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None

    def load(self) -> LoadedModel:
        """Loads the model. Raises ModelError, MissingPackageError (see `load_model`)."""
        from cfcam_gpu.models.load import load_model  # PyTorch is imported here

        settings = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return load_model(settings.pop("model"), **settings)
