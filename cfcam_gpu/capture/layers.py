"""The target layer, found by its name or module."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from torch import Tensor, nn

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


#: Parts of a name that wrappers put there: DataParallel, torch.compile, and adapters of PEFT.
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:base_model\.model|module|_orig_mod)(?:\.|$)")


def find_layer(model: nn.Module, layer: str | int | nn.Module) -> TargetLayer:
    """The target layer that `layer` stands for.

    Args:
        layer: a module of the model, its name, or `NAME:FUNCTION`; or the index of one of the model's children,
            as of an `nn.Sequential`. Names count with and without the parts that wrappers put there:
            `module.`, `_orig_mod.` and PEFT's `base_model.model.`

    Raises:
        CaptureError: the model has no such module; the closest names are listed.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        >>> find_layer(model, "1").label, find_layer(model, model[0]).label, find_layer(model, -1).label
        ('1', '0', '1')
        >>> find_layer(model, "module.1").label
        '1'
    """
    if isinstance(layer, nn.Module):
        return _of_module(model, layer)
    if isinstance(layer, int) and not isinstance(layer, bool):
        return _of_index(model, layer)
    if not isinstance(layer, str):
        raise CaptureError(_no_layer(model, layer))
    name, _, then = layer.partition(":")
    found = _of_name(model, name)
    if then and NONLINEARITIES.get(then) != then:
        functions = sorted(set(NONLINEARITIES.values()))
        raise CaptureError(f"layer {layer!r}: {unknown('function', then, functions)}")
    return TargetLayer(*found, then or None)


def _of_module(model: nn.Module, layer: nn.Module) -> TargetLayer:
    for name, module in model.named_modules():
        if module is layer:
            return TargetLayer(name, module)
    raise CaptureError(f"target layer {type(layer).__name__} is not a module of this {type(model).__name__}")


def _of_index(model: nn.Module, index: int) -> TargetLayer:
    children = list(model.named_children())
    if not -len(children) <= index < len(children):
        raise CaptureError(
            f"target layer {index} is out of range: the model has {len(children)} children, so that an index is "
            f"from {-len(children)} to {len(children) - 1}; `cfcam layers` lists the names of layers"
        )
    return TargetLayer(*children[index])


def _of_name(model: nn.Module, name: str) -> tuple[str, nn.Module]:
    if not name:
        raise CaptureError(
            "the name of the target layer is empty; pass a name, which `cfcam layers` lists, or None for the "
            "automatic choice"
        )
    modules = dict(model.named_modules(remove_duplicate=False))
    if name in modules:
        return name, modules[name]
    bare = _WRAPPERS.sub("", name)
    same = [other for other in modules if other and bare and _WRAPPERS.sub("", other) == bare]
    if same:
        return same[-1], modules[same[-1]]  # the module inside a compiled one
    close = difflib.get_close_matches(name, modules, n=5, cutoff=0.4)
    raise CaptureError(
        f"the model has no layer {name!r}{did_you_mean(close) or '; `cfcam layers` lists them'}"
    )


def _no_layer(model: nn.Module, layer: object) -> str:
    """The message for a target layer that is no name, index or module."""
    expected = "expected a layer's name, index or module, or a list of them"
    if isinstance(layer, Tensor):
        owners = {id(value): name for name, value in model.named_parameters()}
        owner = owners.get(id(layer), "").rpartition(".")[0]
        hint = f"; pass the layer that holds it, {owner!r}" if owner else ""
        return f"target layer must put out a map, got {type(layer).__name__}, a tensor of weights; {expected}{hint}"
    return f"target layer {layer!r} is {type(layer).__name__}; {expected}"
