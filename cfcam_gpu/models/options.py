"""Which model to load and how, as one value that other processes can receive. Imports no PyTorch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cfcam_gpu._utils.messages import either
from cfcam_gpu._utils.option import MODEL, image_size, numbers, option
from cfcam_gpu._utils.places.schemes import is_url
from cfcam_gpu.models.class_names import read_class_names
from cfcam_gpu.models.kinds import FORMS
from cfcam_gpu.models.weights_file import check_weights_file

if TYPE_CHECKING:
    from cfcam_gpu.models.loaded import LoadedModel

#: Number formats that a model can be converted to (see `prepare.prepared`): names of torch dtypes.
PRECISIONS = ("float32", "bfloat16", "float16")


def _file(text: str) -> str | Path:
    """A file, or its URL, of which a `Path` would lose a slash. Raises ValueError."""
    if not text:
        raise ValueError("must name a file, got an empty text")
    return text if is_url(text) else Path(text)


@dataclass(frozen=True)
class ModelOptions:
    """The arguments of `load_model`, kept until the model is needed.

    It can be pickled, so that each process of a distributed run loads the model by itself.

    Attributes:
        model: the specification, written as one of `FORMS`.
        weights, weights_key, num_classes, class_names, size, channels, mean, std: as for `load_model`.

    Example:
        >>> options = ModelOptions("torchvision:squeezenet1_1@none", num_classes=2, size=(64, 64))
        >>> options.load().preprocess.size
        (64, 64)
    """

    model: str = field(default="efficientnet-lite0", metadata=option(f"{either(FORMS)}.", MODEL, "SPEC"))
    weights: str | Path | None = field(
        default=None,
        metadata=option("Weights file, .pth or .safetensors, or URL.", MODEL, "FILE", parse=_file),
    )
    weights_key: str | None = field(
        default=None,
        metadata=option("Entry of a checkpoint to take, such as state_dict_ema.", MODEL, "KEY"),
    )
    num_classes: int | None = field(default=None, metadata=option("Classes of the model's head.", MODEL, "N"))
    class_names: str | Path | None = field(
        default=None,
        metadata=option("Text file with one class name per line.", MODEL, "FILE", parse=_file),
    )
    size: tuple[int, int] | None = field(
        default=None,
        metadata=option("Input size, 224 or 224x320 (height x width).", MODEL, "SIZE", parse=image_size),
    )
    channels: int | None = field(
        default=None, metadata=option("Channels of the model's input, 1 for gray.", MODEL, "N")
    )
    mean: tuple[float, ...] | None = field(
        default=None,
        metadata=option(
            "Normalisation: mean of R,G,B in 0..1; one number for gray.", MODEL, "R,G,B", parse=numbers
        ),
    )
    std: tuple[float, ...] | None = field(
        default=None,
        metadata=option("Normalisation: deviation of R,G,B.", MODEL, "R,G,B", parse=numbers),
    )

    def check(self) -> None:
        """Raises ModelError for files that `load` would refuse before it makes the model; imports no PyTorch.

        Files at URLs are left to `load`.
        """
        if self.weights is not None and not is_url(str(self.weights)):
            check_weights_file(Path(self.weights).expanduser())
        if self.class_names is not None and not is_url(str(self.class_names)):
            read_class_names(Path(self.class_names).expanduser(), self.num_classes)

    def load(self) -> LoadedModel:
        """Loads the model. Raises ModelError, MissingPackageError (see `load_model`)."""
        from cfcam_gpu.models.load import load_model  # PyTorch is imported here

        settings = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return load_model(settings.pop("model"), **settings)
