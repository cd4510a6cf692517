"""A module that is in memory already, with its preprocessing: a `Preprocess`, a transform or a processor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cfcam_gpu._utils.device import device_of, dtype_of, model_errors
from cfcam_gpu.capture.model_state import explainable
from cfcam_gpu.capture.scoring import Scoring
from cfcam_gpu.errors import ConfigError, ModelError
from cfcam_gpu.images.preprocess import INTERPOLATIONS, Preprocess
from cfcam_gpu.models.huggingface import preprocess_of
from cfcam_gpu.models.loaded import LoadedModel

_HOW = "preprocess=Preprocess(size=(224, 224), mean=(...), std=(...), resize=256), from cfcam_gpu.images"


def loaded_module(
    module: nn.Module,
    preprocess: Any,
    class_names: Sequence[str] | None = None,
    *,
    likely_names: Sequence[str] | None = None,
    scoring: Scoring | None = None,
) -> LoadedModel:
    """A module as `load_model` would return it.

    Args:
        module: an image classifier, on any device and in any mode.
        preprocess: a `Preprocess`, or what `as_preprocess` takes.
        class_names: one name for each output; None: not known, unless `likely_names` are as many as the outputs.
        likely_names: the names of the classes of a data set.
        scoring: where the logits are in the model's output.

    Raises:
        ConfigError: no preprocessing, one that cannot be repeated, or another number of names than of outputs.
        CFCAMError: the module does not run on an image of that size.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> loaded = loaded_module(net, Preprocess((8, 8), (0.5,) * 3, (0.5,) * 3), likely_names=["cat", "dog"])
        >>> loaded.spec, loaded.class_names
        ('Sequential', ('cat', 'dog'))
    """
    preprocess = as_preprocess(preprocess)
    count = _output_count(module, preprocess, scoring or Scoring())
    if class_names is not None and len(class_names) not in (count, count - (count == 2)):
        raise ConfigError(
            f"class_names must name each of the model's {count} outputs, got {len(class_names)}"
        )
    if class_names is None and likely_names is not None and len(likely_names) == count:
        class_names = likely_names
    names = None if class_names is None else tuple(map(str, class_names))
    return LoadedModel(module, preprocess, names, type(module).__name__, "of the module that was given")


def _output_count(module: nn.Module, preprocess: Preprocess, scoring: Scoring) -> int:
    """How many classes the module scores."""
    image = torch.zeros(
        1, preprocess.channels, *preprocess.size, dtype=dtype_of(module), device=device_of(module)
    )
    with torch.no_grad(), explainable(module), model_errors(image.shape):
        return scoring.of_model(module).class_logits(module(image)).shape[1]


def as_preprocess(preprocess: Any) -> Preprocess:
    """The `Preprocess` that does what an evaluation transform does.

    Args:
        preprocess: a `Preprocess`; a function from a PIL image to a normalised tensor (3,H,W), such as torchvision's
            and timm's transforms; or an image processor of transformers. What they do is found by running them.

    Raises:
        ConfigError: none of these, or no `Preprocess` does the same: a random transform, or one that does more than
            resize, crop the centre and normalise.

    Example:
        >>> from torchvision.transforms import v2
        >>> steps = [v2.Resize(40), v2.CenterCrop(32), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
        >>> as_preprocess(v2.Compose([*steps, v2.Normalize((0.5,) * 3, (0.25,) * 3)]))
        Preprocess(size=(32, 32), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), resize=40, interpolation='bilinear')
    """
    if isinstance(preprocess, Preprocess):
        return preprocess
    if not callable(preprocess):
        got = "nothing" if preprocess is None else f"a {type(preprocess).__name__}"
        raise ConfigError(
            f"a module needs the preprocessing of its training, got {got}; pass {_HOW}, or the evaluation transform"
        )
    name = type(preprocess).__name__
    processor = preprocess if hasattr(preprocess, "model_input_names") else _Transform(preprocess)
    try:
        return preprocess_of(processor, name)
    except ModelError as error:
        raise ConfigError(
            f"preprocess must take a PIL image to a tensor (3,H,W), and do no more than resize, crop the centre and "
            f"normalise; {error}; or pass {_HOW}"
        ) from error


class _Transform:
    """A transform with the interface of an image processor of transformers."""

    def __init__(self, transform: Callable[..., Any]) -> None:
        self.transform = transform
        self.size: dict[str, int] = {}
        self.resample: int | None = None
        for step in _steps(transform):
            sides = getattr(step, "resize_size", None) or getattr(step, "size", None)
            if "Resize" in type(step).__name__ or hasattr(step, "resize_size"):
                self.size = _edges(sides)
                name = getattr(getattr(step, "interpolation", None), "value", "bilinear")
                self.resample = int(INTERPOLATIONS[name]) if name in INTERPOLATIONS else None
                break

    def __call__(self, images: Any, **_options: Any) -> dict[str, Tensor]:
        return {"pixel_values": torch.as_tensor(np.asarray(self.transform(images)))[None]}


def _steps(transform: Any) -> Iterator[Any]:
    yield transform
    for step in getattr(transform, "transforms", ()):
        yield from _steps(step)


def _edges(sides: Any) -> dict[str, int]:
    """The size of a resizing step, as image processors hold it."""
    values = [sides] if isinstance(sides, int) else [int(side) for side in sides or ()]
    if len(values) == 2:
        return {"height": values[0], "width": values[1]}
    return {"shortest_edge": values[0]} if values else {}
