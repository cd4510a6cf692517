"""`timm:NAME`: the models of timm (extra `timm`)."""

from __future__ import annotations

import difflib
import math
import os
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import Any
from urllib.parse import urlparse

from cfcam_gpu._utils.messages import did_you_mean, either
from cfcam_gpu._utils.optional import require
from cfcam_gpu.errors import ModelError
from cfcam_gpu.images.preprocess import PUBLISHED_PREPROCESS, Preprocess, rgb
from cfcam_gpu.models.class_names import imagenet_names
from cfcam_gpu.models.downloads import downloading
from cfcam_gpu.models.loaded import LoadedModel
from cfcam_gpu.models.request import Request


def load(request: Request) -> LoadedModel:
    """A model of timm. Raises ModelError, MissingPackageError."""
    timm = require("timm", "timm")
    name, at, tag = request.name.partition("@")
    if at and tag.lower() != "none":
        raise ModelError(
            f"{request.spec}: expected @none or nothing; timm names weights after a dot, NAME.TAG"
        )
    config = _pretrained_config(timm, name)
    if request.num_classes is None and config is not None and config.num_classes < 1:
        raise ModelError(
            f"{request.spec} has no classifier of its own; pass --num-classes N and --weights FILE, trained"
        )
    if request.state is not None or at:
        arguments = request.model_arguments()
        if request.channels is not None:
            arguments["in_chans"] = request.channels
        make = partial(timm.create_model, name, pretrained=False, **arguments)
        loaded = request.untrained(make)
    else:
        request.refuse_untrained_head()
        request.refuse_untrained_input()
        loaded = _pretrained(timm, name, config, request.spec)
    data_config = timm.data.resolve_model_data_config(loaded.model)
    return replace(loaded, preprocess=preprocess_of(data_config))


def preprocess_of(data_config: dict[str, Any]) -> Preprocess:
    """The preprocessing that timm's data configuration of a model describes."""
    size = tuple(data_config["input_size"][1:])
    # Only "center" crops; crops wider than the resized image would show the model a black border.
    resized = max(math.floor(max(size) / data_config["crop_pct"]), max(size))
    resize = resized if data_config["crop_mode"] == "center" else None
    mean, std = rgb(data_config["mean"]), rgb(data_config["std"])
    return Preprocess(size, mean, std, resize, data_config["interpolation"])


def _pretrained(timm: ModuleType, name: str, config: Any, spec: str) -> LoadedModel:
    if config is None or not config.has_weights:
        raise ModelError(f"timm has no pretrained weights for {name!r}; pass --weights FILE, or {name}@none")
    source = config.hf_hub_id or os.path.basename(urlparse(config.url or "").path) or name
    with downloading(spec, source, None):
        model = timm.create_model(name, pretrained=True)
    names = imagenet_names() if model.num_classes == 1000 else None
    return LoadedModel(model, PUBLISHED_PREPROCESS, names, spec, source)


def _pretrained_config(timm: ModuleType, name: str) -> Any:
    """timm's description of the pretrained weights for `name`; None: it has none."""
    base, _, tag = name.partition(".")
    if not timm.is_model(base):
        close = difflib.get_close_matches(base, timm.list_models(), n=3)
        raise ModelError(f"timm has no model {base!r}{did_you_mean(close)}")
    tags = [full.partition(".")[2] for full in timm.list_models(f"{base}.*", pretrained=True)]
    if tag and tag not in tags:
        raise ModelError(f"timm has no weights {tag!r} for {base!r}; choose {either(tags) or 'none'}")
    return timm.get_pretrained_cfg(name)
