"""`torchvision:NAME[@WEIGHTS]`: the classification models of torchvision."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from urllib.parse import urlparse

import torch
import torchvision.models
from torch import Tensor
from torchvision.models import WeightsEnum

from cfcam_gpu._utils.messages import did_you_mean, either
from cfcam_gpu.errors import ModelError
from cfcam_gpu.images.preprocess import Preprocess, rgb
from cfcam_gpu.models.channels import with_input_channels
from cfcam_gpu.models.downloads import downloading
from cfcam_gpu.models.loaded import LoadedModel
from cfcam_gpu.models.request import Request


def load(request: Request) -> LoadedModel:
    """A model of torchvision. Raises ModelError."""
    name, at, tag = request.name.lower().partition("@")
    _check_classifier(name, request.spec)
    weights = _pretrained_weights(name, tag if at else "default", request.spec)
    if request.state is not None and at and weights is not None:
        raise ModelError(f"{request.spec} names weights and --weights gives others; drop one of the two")
    if request.state is not None or weights is None:
        arguments = {**_auxiliary_heads(name, request.state), **request.model_arguments()}
        make = partial(torchvision.models.get_model, name, weights=None, **arguments)
        return request.untrained(lambda: with_input_channels(make(), request.channels))
    request.refuse_untrained_head()
    request.refuse_untrained_input()
    file = os.path.basename(urlparse(weights.url).path)
    with downloading(request.spec, file, Path(torch.hub.get_dir()) / "checkpoints"):
        model = torchvision.models.get_model(name, weights=weights)
    names = tuple(weights.meta["categories"])
    return LoadedModel(model, preprocess_of(weights), names, request.spec, str(weights))


def classifiers() -> list[str]:
    """The names of torchvision's classification models."""
    return list(torchvision.models.list_models(module=torchvision.models))


def preprocess_of(weights: WeightsEnum) -> Preprocess:
    """The preprocessing that pretrained weights were evaluated with."""
    transform = weights.transforms()
    crop, resize = transform.crop_size[0], transform.resize_size[0]
    mean, std = rgb(transform.mean), rgb(transform.std)
    return Preprocess((crop, crop), mean, std, resize, transform.interpolation.value)


def _check_classifier(name: str, spec: str) -> None:
    if name in classifiers():
        return
    if name in torchvision.models.list_models():
        task = torchvision.models.get_model_builder(name).__module__.split(".")[2]
        raise ModelError(
            f"{spec} is a {task.replace('_', '-')} model; expected an image classifier with gradients"
        )
    close = difflib.get_close_matches(name, classifiers(), n=3)
    raise ModelError(f"torchvision has no model {name!r}{did_you_mean(close)}")


def _pretrained_weights(name: str, tag: str, spec: str) -> WeightsEnum | None:
    """The pretrained weights of that tag; None for the tag "none"."""
    choices = torchvision.models.get_model_weights(name).__members__
    if tag == "none":
        return None
    if tag.upper() not in choices:
        raise ModelError(f"{spec}: unknown weights {tag!r}; choose {either([*choices, 'none'])}")
    return choices[tag.upper()]


def _auxiliary_heads(name: str, state: Mapping[str, Tensor] | None) -> dict[str, bool]:
    """Arguments of the two models whose weights files may contain heads that only training uses."""
    if name not in ("inception_v3", "googlenet"):
        return {}
    heads = any(re.search(r"(^|\.)(AuxLogits|aux1)\.", key) for key in state or ())
    return {"aux_logits": heads, "init_weights": False}  # their own initialisation takes minutes
