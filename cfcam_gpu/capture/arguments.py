"""Arguments of an explainer, checked: each refusal says what to pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cfcam_gpu._utils.device import device_of, dtype_of
from cfcam_gpu.capture.layouts import check_layout
from cfcam_gpu.capture.scoring import describe
from cfcam_gpu.errors import CaptureError, ConfigError


def checked_images(images: Any, model: nn.Module) -> Tensor:
    """The images (B,channels,H,W), or volumes (B,channels,D,H,W), in the dtype of the model unless autocast is on.

    Raises:
        CaptureError: they are no such tensor, or on another device than the model.

    Example:
        >>> checked_images(torch.rand(1, 3, 8, 8), nn.Conv2d(3, 4, 3).half()).dtype
        torch.float16
    """
    if not (
        isinstance(images, Tensor) and images.ndim in (4, 5) and images.is_floating_point() and len(images)
    ):
        raise CaptureError(
            "images must be a floating-point tensor (B,channels,H,W) with at least one image, got "
            f"{describe(images)}; normalise them as the model expects, and give a single image "
            "a batch axis: image[None]"
        )
    device = device_of(model)
    if images.device != device:
        raise CaptureError(
            f"images are on {images.device}, the model on {device}; call images.to({str(device)!r})"
        )
    return (
        images if torch.is_autocast_enabled(images.device.type) else images.to(dtype_of(model, images.dtype))
    )


def check_reading(layer: object, layout: str, reshape_transform: Callable[[Tensor], Tensor] | None) -> None:
    """Checks that at most one argument says how an output is read, and of which layer.

    Raises:
        ConfigError: several do, or the layer is missing.
    """
    check_layout(layout)
    if reshape_transform is not None and layer is None:
        raise ConfigError("reshape_transform reads the output of one layer; pass target_layer as well")
    if reshape_transform is not None and layout != "auto":
        raise ConfigError("reshape_transform and layout both say how an output is read; pass one of them")


def listed_layers(layer: Any) -> list[Any]:
    """The target layers of an argument that is a layer, a list of several, or None.

    Raises:
        CaptureError: an empty list, or a list in a list.

    Example:
        >>> listed_layers("layer4"), listed_layers(["layer3", "layer4"]), listed_layers(None)
        (['layer4'], ['layer3', 'layer4'], [None])
    """
    if isinstance(layer, (list, tuple)):
        nested = [one for one in layer if isinstance(one, (list, tuple))]
        if nested or not layer:
            got = (
                f"target layer {nested[0]!r} is a list in a list"
                if nested
                else "an empty list of target layers"
            )
            raise CaptureError(f"{got}; expected a layer's name, index or module, or a list of them")
        return list(layer)
    return [layer]


def check_call(call: int | str) -> None:
    """Checks the number of a run of the layer.

    Raises:
        ConfigError: neither a number nor `all`.
    """
    if call != "all" and (not isinstance(call, int) or isinstance(call, bool)):
        raise ConfigError(f"call must be 'all' or the number of a run, -1 for the last, got {call!r}")
