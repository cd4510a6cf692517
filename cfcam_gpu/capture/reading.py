"""How the output of a layer that the user names is read."""

from __future__ import annotations

import logging
import re
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor, nn

from cfcam_gpu._utils.undo import Undo
from cfcam_gpu.capture.hooks import add_hook, replace_outputs
from cfcam_gpu.capture.layers import TargetLayer
from cfcam_gpu.capture.layouts import (
    LAYOUTS,
    ChannelsFirst,
    ChannelsLast,
    Geometry,
    Layout,
    MapShape,
    Reshaped,
    check_layout,
    geometry_of,
    is_channels_first,
    layout_named,
    readings,
)
from cfcam_gpu.capture.noise_patch import localities, run_patches
from cfcam_gpu.capture.scoring import describe
from cfcam_gpu.errors import CaptureError

_log = logging.getLogger("cfcam_gpu")

#: Names and classes of attention, and of its encodings of positions.
ATTENTION = re.compile(r"attn|attention|rel_?pos|pos_?enc|pos_?embed", re.IGNORECASE)

#: What `with_layout` found, by model: a test of a layer is not repeated.
_FOUND: weakref.WeakKeyDictionary[nn.Module, dict[object, TargetLayer]] = weakref.WeakKeyDictionary()


def with_layout(
    model: nn.Module,
    layer: TargetLayer,
    images: Tensor,
    layout: str = "auto",
    reshape_transform: Callable[[Tensor], Tensor] | None = None,
) -> TargetLayer:
    """The layer with the layout of its output, found by running the model on ten made-up images, once.

    A warning is logged where the caller's layer, layout or function gives no map of the picture.

    Args:
        images: a batch as the model takes it, of which the size counts.
        layout: `auto`, or the key of `LAYOUTS` that the caller names.
        reshape_transform: the caller's function from the output to (B,C,h,w).

    Raises:
        CaptureError: the output cannot be read in any layout, or not in that one.

    Example:
        >>> import torch
        >>> from cfcam_gpu.capture import find_layer
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        >>> with_layout(model, find_layer(model, "1"), torch.rand(1, 3, 8, 8)).layout
        ChannelsFirst()
    """
    check_layout(layout)
    found = _FOUND.setdefault(model, {})
    key = (layer.label, id(layer.module), tuple(images.shape[1:]), layout, reshape_transform)
    if key not in found:
        found[key] = replace(layer, layout=_layout_of(model, layer, images, layout, reshape_transform))
    return found[key]


def _layout_of(
    model: nn.Module,
    layer: TargetLayer,
    images: Tensor,
    layout: str,
    reshape_transform: Callable[[Tensor], Tensor] | None,
) -> Layout:
    output, geometry = _patch_output(model, layer, images)
    if output is None:
        return ChannelsFirst()  # the capture says what is wrong
    if reshape_transform is not None:
        possible: list[Layout] = [Reshaped(reshape_transform)]
    elif layout != "auto":
        possible = [layout_named(layout, output.shape, geometry)]
    else:
        possible = readings(output.shape, geometry)
        if output.ndim == 4 and not possible:
            possible = [ChannelsFirst(), ChannelsLast()]
    results = localities(output, possible)
    passing = [one for one, result in results.items() if result.is_map]
    if passing:
        return passing[0]
    if not results or (
        layout == "auto" and reshape_transform is None and not readings(output.shape, geometry)
    ):
        raise CaptureError(
            f"the output of layer {layer.label!r}, {describe(output[:1])} for one image, is no map of a "
            f"{geometry.image[0]}x{geometry.image[1]} image in any of the layouts {', '.join(LAYOUTS)}; choose another "
            "layer, `cfcam layers` lists them, or pass reshape_transform, a function from the output to (B,C,h,w)"
        )
    likeliest = next(iter(results))
    if not results[likeliest].is_spread:
        _log.warning(
            "layer %r, read as %s, does not change where the picture changes, so that its heatmaps may be "
            "wrong; `cfcam layers` lists the layers that do",
            layer.label,
            likeliest.about,
        )
    return likeliest


def _patch_output(model: nn.Module, layer: TargetLayer, images: Tensor) -> tuple[Tensor | None, Geometry]:
    """The layer's last output for the ten images of `noise_patches`, and the sizes of the model's maps."""
    outputs: list[Tensor] = []
    grids: dict[MapShape, None] = {}

    def keep(output: object) -> object:
        if isinstance(output, Tensor):
            outputs[:] = [output.detach().clone()]
        return output

    def note(_module: nn.Module, _arguments: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            grids[(output.shape[2], output.shape[3])] = None

    undo = Undo()
    try:
        for convolution in (module for module in model.modules() if isinstance(module, nn.Conv2d)):
            add_hook(convolution._forward_hooks, note, undo)
        replace_outputs(layer, keep, undo)
        run_patches(model, images)
    finally:
        undo.run()
    named = geometry_of(model, (images.shape[2], images.shape[3]))
    sizes = tuple(dict.fromkeys([*named.grids, *grids]))
    output = outputs[0] if outputs and outputs[0].is_floating_point() else None
    return output, replace(named, grids=sizes)


def with_known_layout(model: nn.Module, layer: TargetLayer, output: Tensor, images: Tensor) -> TargetLayer:
    """The layer with the layout of an output for images (B,channels,H,W); the model runs only where it must.

    A layout holds for the image size for which it was found. Raises as `with_layout` does.
    """
    image = (images.shape[2], images.shape[3])
    if layer.layout is None:
        plain = _plain_layout(model, output.shape, image)
        return with_layout(model, layer, images) if plain is None else replace(layer, layout=plain)
    if layer.layout.fits(output.shape) and layer.layout.image in (None, image):
        return layer
    return with_layout(model, layer, images, layer.layout.name)


def _plain_layout(model: nn.Module, shape: Sequence[int], image: MapShape) -> Layout | None:
    """`ChannelsFirst` where the shape of an output says that it can be nothing else, else None.

    So it is in a model of convolutions, without a module named after attention.
    """
    if any(ATTENTION.search(type(module).__name__) for module in model.modules()):
        return None
    return ChannelsFirst() if is_channels_first(shape, image) else None
