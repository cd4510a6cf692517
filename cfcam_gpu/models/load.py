"""From a specification to a model that is ready to explain."""

from __future__ import annotations

import difflib
import importlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from cfcam_gpu._utils.messages import did_you_mean, either, plural
from cfcam_gpu._utils.places.cache import local_copy
from cfcam_gpu._utils.places.masking import masked
from cfcam_gpu._utils.places.schemes import is_url
from cfcam_gpu.errors import ModelError
from cfcam_gpu.images.preprocess import PUBLISHED_PREPROCESS, Preprocess, overridden
from cfcam_gpu.models.channels import input_channels
from cfcam_gpu.models.class_names import read_class_names
from cfcam_gpu.models.kinds import FORMS, KINDS
from cfcam_gpu.models.loaded import LoadedModel
from cfcam_gpu.models.request import UNTRAINED, Request
from cfcam_gpu.models.weights import load_state_dict, read_checkpoint

_log = logging.getLogger("cfcam_gpu")

#: ImageNet's mean and standard deviation, averaged over the colours.
_GRAY_MEAN, _GRAY_STD = (0.449,), (0.226,)


def load_model(
    spec: str,
    *,
    weights: str | Path | None = None,
    weights_key: str | None = None,
    num_classes: int | None = None,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    class_names: str | Path | None = None,
) -> LoadedModel:
    """Loads the model that `spec` names, in eval mode, on the CPU.

    The preprocessing is the one that belongs to the pretrained weights. Other weights get timm's
    description of the architecture, or else the whole image at 224×224 with ImageNet's mean and std.
    `size`, `mean` and `std` replace parts of it.

    Args:
        spec: the specification, written as one of `FORMS`.
        weights: a file with the model's state dict, .safetensors or written by torch.save, or its URL. No code in
            it runs. A file at a URL is kept in the folder `CFCAM_CACHE`, else ~/.cache/cfcam-gpu.
        weights_key: the entry of a training checkpoint to take, such as `state_dict_ema`, or what the names
            of the weights begin with before a dot. None: the first of the usual ones.
        num_classes: number of the model's outputs, where the weights file has another than the
            architecture's default.
        size: (height, width) of the input in pixels.
        channels: of the input, where it has another number than the architecture's three: 1 for gray images, 4
            for files of four bands. None: three; for a `py:` model what its first convolution takes.
        mean, std: normalisation, one number a channel (red, green, blue; or gray), for pixel values in [0, 1].
        class_names: a UTF-8 text file, one name per line, in the order of the outputs, or its URL.

    Raises:
        ModelError: a specification, file or value that cannot be used, or a download that failed.
        MissingPackageError: the package that this kind of model needs is not installed.

    Example:
        >>> loaded = load_model("torchvision:squeezenet1_1@none", num_classes=2)
        >>> loaded.weights, loaded.preprocess.size
        ('untrained (random, seed 0)', (224, 224))
    """
    kind, name = _parse(spec)
    if num_classes is not None and num_classes < 1:
        raise ModelError(f"num_classes must be at least 1, got {num_classes}")
    file = None if weights is None else _on_disk(weights)
    if weights_key is not None and file is None:
        raise ModelError(
            f"the weights key {weights_key!r} is for a weights file; give --weights FILE as well"
        )
    checkpoint = None if file is None else read_checkpoint(file, weights_key)
    state = None if checkpoint is None else checkpoint.state
    if channels is not None and channels < 1:
        raise ModelError(f"channels must be at least 1, got {channels}")
    loaded = _loader(kind)(Request(spec, name, state, num_classes, channels))
    if checkpoint is not None:
        shown = masked(str(weights)) if is_url(str(weights)) else str(file)
        load_state_dict(loaded.model, checkpoint.state, f"the weights {shown} do not fit {spec}")
        source = f"{shown} ({checkpoint.entry})" if checkpoint.entry else shown
        loaded = replace(loaded, weights=source, weights_key=weights_key, class_names=None)
    names = loaded.class_names
    if class_names is not None:
        count = num_classes or (len(names) if names else None)
        names = read_class_names(_on_disk(class_names), count)
    preprocess = _preprocess(loaded, size, channels, mean, std)
    return replace(loaded, model=loaded.model.cpu().eval(), preprocess=preprocess, class_names=names)


def _on_disk(file: str | Path) -> Path:
    """The file, or the copy of one at a URL. Raises ModelError, MissingPackageError."""
    if not is_url(str(file)):
        return Path(file).expanduser()
    try:
        return local_copy(str(file))
    except OSError as error:
        raise ModelError(f"{masked(str(file))} cannot be read: {error.strerror or error}") from error


def _preprocess(
    loaded: LoadedModel,
    size: tuple[int, int] | None,
    channels: int | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> Preprocess:
    """The model's preprocessing with what the user changes; says where mean and std are a guess."""
    base = loaded.preprocess
    count = channels or (input_channels(loaded.model) if base is PUBLISHED_PREPROCESS else base.channels) or 3
    if base.channels != count:
        if count != 1 and (mean is None or std is None):
            raise ModelError(
                f"{loaded.spec} takes {count} channels; pass --mean and --std, {count} numbers each, as in training"
            )
        base = replace(base, mean=_GRAY_MEAN, std=_GRAY_STD)
    preprocess = overridden(base, size, mean, std)
    if preprocess.channels != count:
        raise ModelError(
            f"{loaded.spec} takes {plural(count, 'channel')}, so mean and std must have {plural(count, 'number')} "
            f"each, got {preprocess.channels}"
        )
    guessed = loaded.preprocess is PUBLISHED_PREPROCESS or loaded.preprocess.channels != count
    if guessed and loaded.weights != UNTRAINED and (mean is None or std is None):
        _log.warning(
            "how images were prepared for the weights of %s is not known: ImageNet's mean and std%s are assumed; "
            "pass --mean and --std as in training",
            loaded.spec,
            ", averaged to gray," if count == 1 else "",
        )
    return preprocess


def _loader(kind: str) -> Callable[[Request], LoadedModel]:
    loader: Callable[[Request], LoadedModel] = importlib.import_module(
        f"{__package__}.{KINDS[kind].module}"
    ).load
    return loader


def _parse(spec: str) -> tuple[str, str]:
    """The specification's kind, and its name after the colon."""
    kind, colon, name = spec.partition(":")
    if kind in KINDS:
        takes_name = ":" in KINDS[kind].form
        if bool(colon) == takes_name and bool(name) == takes_name:
            return kind, name
    raise ModelError(f"unknown model {spec!r}; expected {either(FORMS)}{did_you_mean(_similar(spec))}")


def _similar(spec: str) -> list[str]:
    """Specifications to suggest for one that does not exist, also where the kind is missing."""
    from cfcam_gpu.models.torchvision import classifiers

    suggestions = {name: f"torchvision:{name}" for name in classifiers()}
    suggestions |= {form: form for form in (*suggestions.values(), "efficientnet-lite0")}
    return [suggestions[match] for match in difflib.get_close_matches(spec.lower(), suggestions, n=3)]
