"""The target layer, found by its name or module."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from torch import nn

from cfcam_gpu._utils.messages import did_you_mean, unknown
from cfcam_gpu.capture.layouts import Layout
from cfcam_gpu.errors import CaptureError

#: Name of a function of torch that is a nonlinearity, in place or not -> its name in a layer's label.
NONLINEARITIES = {
    name + suffix: name
    for name in (
        "relu", "relu6", "leaky_relu", "prelu", "elu", "selu", "celu", "gelu", "silu", "mish",
        "hardswish", "hardtanh",
    )
    for suffix in ("", "_")
}  # fmt: skip


@dataclass(frozen=True)
class TargetLayer:
    """A module whose output is explained; with `then`, the output of the function of that name after it.

    Attributes:
        layout: how the output holds its map; None: found out when the layer is captured.

    Example:
        >>> TargetLayer("features", nn.Identity(), then="relu").label
        'features:relu'
    """

    name: str
    module: nn.Module
    then: str | None = None
    layout: Layout | None = None

    @property
    def label(self) -> str:
        """`NAME` or `NAME:FUNCTION`, as `find_layer` takes it."""
        return f"{self.name}:{self.then}" if self.then else self.name


@dataclass(frozen=True)
class LayerInfo:
    """A layer that can be explained.

    Attributes:
        name: its label, as `find_layer` takes it.
        type: class of its module.
        shape: of its last output, without the batch axis.
        chosen: whether `choose_layer` takes it.
        layout: how the output holds its map, in words.
        map_shape: (h,w) of the map.
        note: why the layer is chosen, or why it would not be.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    chosen: bool
    layout: str
    map_shape: tuple[int, int]
    note: str


def find_layer(model: nn.Module, layer: str | nn.Module) -> TargetLayer:
    """The target layer called `layer`: a module of the model, its name, or `NAME:FUNCTION`.

    Raises:
        CaptureError: the model has no such module; the closest names are listed.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        >>> find_layer(model, "1").label, find_layer(model, model[0]).label
        ('1', '0')
    """
    if isinstance(layer, nn.Module):
        for name, module in model.named_modules():
            if module is layer:
                return TargetLayer(name, module)
        raise CaptureError(
            f"target layer {type(layer).__name__} is not a module of this {type(model).__name__}"
        )
    name, _, then = layer.partition(":")
    modules = dict(model.named_modules(remove_duplicate=False))
    if not name or name not in modules:
        close = difflib.get_close_matches(name, modules, n=5, cutoff=0.4)
        raise CaptureError(
            f"the model has no layer {name!r}{did_you_mean(close) or '; `cfcam layers` lists them'}"
        )
    if then and NONLINEARITIES.get(then) != then:
        functions = sorted(set(NONLINEARITIES.values()))
        raise CaptureError(f"layer {layer!r}: {unknown('function', then, functions)}")
    return TargetLayer(name, modules[name], then or None)
