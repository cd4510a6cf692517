"""Where to look: the target layer by name, by module, or chosen from a forward pass."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cfcam_gpu.capture.model_state import explainable
from cfcam_gpu.errors import CaptureError

#: Functions of torch that are nonlinearities, in place or not, and their name in a layer's label.
NONLINEARITIES = {
    name + suffix: name
    for name in (
        "relu", "relu6", "leaky_relu", "prelu", "elu", "selu", "celu", "gelu", "silu", "mish",
        "hardswish", "hardtanh",
    )
    for suffix in ("", "_")
}  # fmt: skip

_NORMS = {"batch_norm", "instance_norm", "group_norm"}


@dataclass(frozen=True)
class TargetLayer:
    """A module whose output is explained; with `then`, after the function of that name that follows it."""

    name: str
    module: nn.Module
    then: str | None = None

    @property
    def label(self) -> str:
        return f"{self.name}:{self.then}" if self.then else self.name


@dataclass(frozen=True)
class LayerInfo:
    """A candidate: label, type of its module, shape (C,h,w) of its last output, whether it is the choice."""

    name: str
    type: str
    shape: tuple[int, ...]
    chosen: bool = False


@dataclass(frozen=True)
class _Call:
    name: str
    module: nn.Module
    shape: tuple[int, ...]
    made_by: str | None
    followed_by: str | None


def find_layer(model: nn.Module, layer: str | nn.Module) -> TargetLayer:
    """The target layer called `layer`: a module of the model, its name, or `NAME:FUNCTION`.

    Raises:
        CaptureError: the model has no such module; the closest names are listed.
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
        hint = f"did you mean {', '.join(close)}?" if close else "`cfcam layers` lists them"
        raise CaptureError(f"the model has no layer {name!r}; {hint}")
    if then and NONLINEARITIES.get(then) != then:
        known = ", ".join(sorted(set(NONLINEARITIES.values())))
        raise CaptureError(f"unknown function {then!r} in layer {layer!r}; choose one of: {known}")
    return TargetLayer(name, modules[name], then or None)


def choose_layer(model: nn.Module, images: Tensor) -> TargetLayer:
    """The last module with an output (B,C,h,w) larger than 1×1, after the nonlinearity that follows it.

    Args:
        images: a batch as the model takes it; its first image is run once.

    Raises:
        CaptureError: no module has such an output.
    """
    calls = _trace(model, images[:1])
    chosen = _choice(calls)
    return TargetLayer(chosen.name, chosen.module, chosen.followed_by)


def finer_layer(model: nn.Module, layer: TargetLayer, images: Tensor) -> TargetLayer:
    """The last layer before `layer` whose maps have at least twice its rows and columns.

    One inside a module that goes on to make smaller maps is taken only where there is no other: the
    end of a stage of a network, not the inside of the block that halves the resolution. Modules around
    `layer` do not count as such.

    Raises:
        CaptureError: there is none.
    """
    calls = _trace(model, images[:1])
    own = next((call for call in calls if call.module is layer.module), None)
    if own is None:
        raise CaptureError(
            f"layer {layer.label!r} has no maps larger than 1x1; `cfcam layers` lists those that have"
        )
    finer = [
        call
        for call in calls[: calls.index(own)]
        if call.shape[1] >= 2 * own.shape[1] and call.shape[2] >= 2 * own.shape[2]
    ]
    rows = {call.name: call.shape[1] for call in calls if not f"{own.name}.".startswith(f"{call.name}.")}
    ends = [
        call for call in finer if min(_rows_around(call.name, rows), default=call.shape[1]) >= call.shape[1]
    ]
    if not finer:
        raise CaptureError(
            f"no layer before {layer.label!r} has maps of twice its resolution ({own.shape[1]}x{own.shape[2]}); "
            "explain an earlier layer by method 'cfcam'"
        )
    chosen = _choice(ends or finer)
    return TargetLayer(chosen.name, chosen.module, chosen.followed_by)


def _rows_around(name: str, rows: dict[str, int]) -> list[int]:
    """Rows of the maps that the modules around a module put out."""
    parts = name.split(".")
    around = (".".join(parts[:n]) for n in range(1, len(parts)))
    return [rows[module] for module in around if module in rows]


def list_layers(model: nn.Module, images: Tensor) -> list[LayerInfo]:
    """All candidates in the order in which they ran last, the automatic choice marked."""
    calls = _trace(model, images[:1])
    chosen = _choice(calls)
    infos = []
    for call in calls:
        label = TargetLayer(call.name, call.module, call.followed_by if call is chosen else None).label
        infos.append(LayerInfo(label, type(call.module).__name__, call.shape, call is chosen))
    return infos


def _choice(calls: list[_Call]) -> _Call:
    for call in reversed(calls):
        # Before its nonlinearity a normalised map is centred on zero: class activation maps of it are blank.
        if call.followed_by is not None or call.made_by not in _NORMS:
            return call
    raise CaptureError(
        "no module of this model has a 4-D output (B,C,h,w) larger than 1x1 after a nonlinearity; "
        "pass target_layer, or explain_activations for features of another shape"
    )


def _trace(model: nn.Module, images: Tensor) -> list[_Call]:
    """The last call of each module with an output (B,C,h,w) larger than 1×1, in order of completion."""
    recorder = _Recorder()
    outputs: dict[nn.Module, tuple[str, Tensor, int, str | None]] = {}

    def record(module: nn.Module, name: str, output: Any) -> None:
        outputs.pop(module, None)
        if isinstance(output, Tensor) and output.ndim == 4 and max(output.shape[2:]) > 1:
            outputs[module] = (name, output, recorder.step, recorder.made_by.get(id(output)))

    with explainable(model), torch.no_grad(), _hooks(model, record), recorder:
        model(images)
    return [
        _Call(name, module, tuple(output.shape[1:]), made_by, recorder.nonlinearity_after(output, step))
        for module, (name, output, step, made_by) in outputs.items()
    ]


@contextlib.contextmanager
def _hooks(model: nn.Module, record: Any) -> Iterator[None]:
    """Call record(module, name, output) after every call of every module below the model."""
    handles = [
        module.register_forward_hook(lambda m, _args, output, name=name: record(m, name, output))
        for name, module in model.named_modules()
        if name
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Recorder(TorchFunctionMode):
    """Which function made each tensor, and which nonlinearities took it and when, by the tensor's id."""

    def __init__(self) -> None:
        super().__init__()
        self.step = 0
        self.made_by: dict[int, str] = {}
        self.nonlinearities: dict[int, list[tuple[int, str]]] = {}
        self.alive: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.step += 1
        name = getattr(func, "__name__", "")
        if args and isinstance(args[0], Tensor) and name in NONLINEARITIES:
            self.nonlinearities.setdefault(id(args[0]), []).append((self.step, NONLINEARITIES[name]))
        if isinstance(result, Tensor):
            # Kept, so that no other tensor gets the same id.
            self.alive.append(result)
            self.made_by[id(result)] = name.rstrip("_")
        return result

    def nonlinearity_after(self, tensor: Tensor, step: int) -> str | None:
        """The first nonlinearity applied to the tensor after a step."""
        return next((name for when, name in self.nonlinearities.get(id(tensor), []) if when > step), None)
