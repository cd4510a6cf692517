"""`hf:NAME_OR_FOLDER`: image classifiers of transformers, from the Hugging Face hub or a folder (extra `hf`)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import nn

from cfcam_gpu._utils.messages import listed, one_line
from cfcam_gpu._utils.optional import require
from cfcam_gpu.errors import ModelError
from cfcam_gpu.images.preprocess import INTERPOLATIONS, Preprocess, rgb
from cfcam_gpu.models.downloads import downloading, weights_only
from cfcam_gpu.models.loaded import LoadedModel
from cfcam_gpu.models.request import Request

#: Largest mean difference of the two preprocessings of a noisy picture, in levels of 8 bits: Pillow and
#: torchvision round differently when they resize.
_MEAN_TOLERANCE = 1.0


def load(request: Request) -> LoadedModel:
    """An image classifier of transformers. Raises ModelError, MissingPackageError."""
    transformers = require("transformers", "hf")
    with _quiet(transformers):
        return _load(transformers, _place(request), request)


@contextmanager
def _quiet(transformers: ModuleType) -> Iterator[None]:
    """Without the progress and the reports of transformers: what is wrong becomes an error here."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _load(transformers: ModuleType, place: str, request: Request) -> LoadedModel:
    config = _loaded(transformers.AutoConfig, place, request, "config.json", num_labels=request.num_classes)
    processor = _loaded(transformers.AutoImageProcessor, place, request, "preprocessor_config.json")
    preprocess = preprocess_of(processor, f"{request.spec}: its {type(processor).__name__}")
    if request.state is not None:
        if request.channels is not None:
            config.num_channels = request.channels
        make = partial(_from_config, transformers, config, request.spec)
        return replace(request.untrained(make), preprocess=preprocess)
    request.refuse_untrained_head()
    request.refuse_untrained_input()
    model = _pretrained(transformers, place, config, request)
    return LoadedModel(model, preprocess, _class_names(config), request.spec, place)


def _place(request: Request) -> str:
    """The folder, or the name on the hub."""
    folder = Path(request.name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(
                f"{request.spec}: the folder has no config.json; give one that model.save_pretrained(FOLDER) wrote"
            )
        return str(folder)
    if folder.exists() or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", request.name, re.ASCII):
        raise ModelError(
            f"{request.spec}: there is no such folder, and a name on the hub is like microsoft/resnet-50"
        )
    return request.name


def _loaded(kind: Any, place: str, request: Request, file: str, **options: Any) -> Any:
    """What `from_pretrained` of a class of transformers makes of a file in the folder or on the hub."""
    options = {name: value for name, value in options.items() if value is not None}
    if not Path(place).is_dir():
        with downloading(request.spec, f"{place}/{file}", None):
            return kind.from_pretrained(place, **options)
    try:
        return kind.from_pretrained(place, local_files_only=True, **options)
    except Exception as error:  # transformers raises nearly anything on files that do not fit
        hint = "" if (Path(place) / file).is_file() else "; processor.save_pretrained(FOLDER) writes it"
        raise ModelError(f"{request.spec}: {file} cannot be loaded ({one_line(error)}){hint}") from error


def _from_config(transformers: ModuleType, config: Any, spec: str) -> nn.Module:
    try:
        model: nn.Module = transformers.AutoModelForImageClassification.from_config(config)
    except ValueError as error:
        raise _no_classifier(config, spec) from error
    return model


def _no_classifier(config: Any, spec: str) -> ModelError:
    name = listed(config.architectures or [type(config).__name__])
    return ModelError(f"{spec} is {name}, which is no image classifier; expected one with a trained head")


def _pretrained(transformers: ModuleType, place: str, config: Any, request: Request) -> nn.Module:
    auto = transformers.AutoModelForImageClassification
    if type(config) not in auto._model_mapping:
        raise _no_classifier(config, request.spec)
    load_weights = partial(auto.from_pretrained, place, config=config, output_loading_info=True)
    if Path(place).is_dir():
        try:
            with weights_only():
                model, report = load_weights(local_files_only=True)
        except Exception as error:  # damaged or missing files
            raise ModelError(f"{request.spec}: the weights cannot be loaded ({one_line(error)})") from error
    else:
        with downloading(request.spec, place, None):
            model, report = load_weights()
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"{request.spec} is {listed(config.architectures or ['a model'])} without trained weights for "
            f"{listed(missing)}, so it is no image classifier yet; give one whose head is trained"
        )
    checked: nn.Module = model
    return checked


def _class_names(config: Any) -> tuple[str, ...] | None:
    """The names in `id2label`; None where they are the placeholders LABEL_0, LABEL_1, …"""
    names = tuple(str(config.id2label[index]) for index in sorted(config.id2label))
    return None if all(re.fullmatch(r"LABEL_\d+", name) for name in names) else names


def preprocess_of(processor: Any, name: str) -> Preprocess:
    """The preprocessing that an image processor of transformers does, found by running it.

    Mean and standard deviation come from a black and a white picture; how it resizes and crops, from a
    noisy picture, on which the result agrees with the processor's.

    Args:
        processor: takes images and returns `pixel_values`.
        name: what the processor is called in messages.

    Raises:
        ModelError: no `Preprocess` does the same.
    """
    size = _output_size(processor, name)
    black, white = (_flat(processor, size, level) for level in (0, 255))
    scale = white - black
    mean = _exact(processor, "image_mean", -black / scale)
    std = _exact(processor, "image_std", 1 / scale)
    picture = _noisy_picture(size)
    wanted = _pixels(processor, picture)
    names = {int(value): name for name, value in INTERPOLATIONS.items()}
    resample = getattr(processor, "resample", None)
    interpolation = "bilinear" if resample is None else names.get(int(resample), "bilinear")
    differences = {}
    for resize in _resizings(processor, size):
        candidate = Preprocess(size, rgb(mean), rgb(std), resize, interpolation)
        levels = np.abs(candidate(picture).numpy() - wanted) * np.asarray(std)[:, None, None] * 255
        differences[candidate] = float(levels.mean())
    best = min(differences, key=lambda one: differences[one])
    if not differences[best] <= _MEAN_TOLERANCE:
        raise ModelError(
            f"{name} prepares images in a way that cfcam cannot repeat (the pixels differ by {differences[best]:.1f} "
            "of 255 on average); in Python, call CFCAM with the tensors that it makes"
        )
    return best


def _pixels(processor: Any, image: Image.Image) -> npt.NDArray[np.float32]:
    pixels: npt.NDArray[np.float32] = processor(images=image, return_tensors="pt")["pixel_values"][0].numpy()
    return pixels


def _output_size(processor: Any, name: str) -> tuple[int, int]:
    """(height, width) of what the processor makes of a wide, and of a high picture."""
    try:
        shapes = {_pixels(processor, Image.new("RGB", size)).shape for size in ((640, 480), (480, 600))}
    except Exception as error:  # processors of other things than images
        raise ModelError(f"{name} does not work ({one_line(error)})") from error
    shape = shapes.pop()
    if shapes or len(shape) != 3 or shape[0] != 3:
        raise ModelError(
            f"{name} makes inputs of shape {shape}{' or another' if shapes else ''}; "
            "expected three channels and one size for all images"
        )
    return int(shape[1]), int(shape[2])


def _flat(processor: Any, size: tuple[int, int], level: int) -> npt.NDArray[np.float64]:
    """The three values of a picture of one gray level."""
    image = Image.new("RGB", (size[1], size[0]), (level,) * 3)
    values: npt.NDArray[np.float64] = _pixels(processor, image).mean((1, 2), dtype=np.float64)
    return values


def _exact(processor: Any, name: str, measured: npt.NDArray[np.float64]) -> tuple[float, ...]:
    """The processor's own values where they are the measured ones but for rounding."""
    own = getattr(processor, name, None)
    if isinstance(own, (list, tuple)) and np.allclose(own, measured, atol=1e-5):
        return tuple(float(value) for value in own)
    return tuple(round(float(value), 6) for value in measured)


def _noisy_picture(size: tuple[int, int]) -> Image.Image:
    """Coarse noise in colour, half as wide again as high, larger than the model's input."""
    levels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    side = 2 * max(size)
    return Image.fromarray(levels).resize((side * 3 // 2, side), Image.Resampling.BICUBIC)


def _resizings(processor: Any, size: tuple[int, int]) -> Iterator[int | tuple[int, int] | None]:
    """The ways in which image processors resize before they crop, the likeliest first."""
    yield None
    own = dict(getattr(processor, "size", None) or {})
    if own.get("height") and own.get("width"):
        height, width = int(own["height"]), int(own["width"])
        if height >= size[0] and width >= size[1] and (height, width) != size:
            yield height, width
    edge = own.get("shortest_edge") or own.get("height") or max(size)
    crop = getattr(processor, "crop_pct", None) or 1
    for resized in {int(edge), int(edge / crop), int(256 / 224 * edge)}:  # the last as LeViT's processor
        if resized >= max(size):
            yield resized
