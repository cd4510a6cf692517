"""The target layer: found by its name or module, or chosen from a forward pass."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cfcam_gpu._utils.messages import did_you_mean, unknown
from cfcam_gpu.capture.model_state import explainable
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

_NORMS = {"batch_norm", "instance_norm", "group_norm"}


@dataclass(frozen=True)
class TargetLayer:
    """A module whose output is explained; with `then`, the output of the function of that name after it.

    Example:
        >>> TargetLayer("features", nn.Identity(), then="relu").label
        'features:relu'
    """

    name: str
    module: nn.Module
    then: str | None = None

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
        shape: (C,h,w) of its last output.
        chosen: whether `choose_layer` takes it.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    chosen: bool = False


@dataclass(frozen=True)
class _Call:
    """The last call of a module: its output's shape (C,h,w), the function that made the output, and the
    nonlinearity that followed."""

    name: str
    module: nn.Module
    shape: tuple[int, ...]
    made_by: str | None
    followed_by: str | None


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


def choose_layer(model: nn.Module, images: Tensor) -> TargetLayer:
    """The last module with an output (B,C,h,w) larger than 1×1, after the nonlinearity that follows it.

    Args:
        images: a batch as the model takes it; its first image is run once.

    Raises:
        CaptureError: no module has such an output.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
        >>> choose_layer(model, torch.rand(1, 3, 4, 4)).label
        '1'
    """
    calls = _trace(model, images[:1])
    chosen = _choice(calls)
    return TargetLayer(chosen.name, chosen.module, chosen.followed_by)


def finer_layer(model: nn.Module, layer: TargetLayer, images: Tensor) -> TargetLayer:
    """The last layer before `layer` whose maps have at least twice its rows and columns.

    The end of a stage of the network is preferred to a layer inside the block that halves the
    resolution: a layer within a module whose own output is smaller is taken only where there is no
    other. Modules that contain `layer` are left out of this comparison.

    Args:
        images: a batch as the model takes it; its first image is run once.

    Raises:
        CaptureError: there is none.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.ReLU())
        >>> finer_layer(model, find_layer(model, "3"), torch.rand(1, 3, 10, 10)).label
        '1'
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
    """Rows of the maps that the modules containing a module put out."""
    parts = name.split(".")
    around = (".".join(parts[:n]) for n in range(1, len(parts)))
    return [rows[module] for module in around if module in rows]


def list_layers(model: nn.Module, images: Tensor) -> list[LayerInfo]:
    """All layers that can be explained, in the order of their last calls, the automatic choice marked.

    Raises:
        CaptureError: there is none.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        >>> [(layer.name, layer.shape, layer.chosen) for layer in list_layers(model, torch.rand(1, 3, 4, 4))]
        [('0', (4, 2, 2), False), ('1', (4, 2, 2), True)]
    """
    calls = _trace(model, images[:1])
    chosen = _choice(calls)
    infos = []
    for call in calls:
        label = TargetLayer(call.name, call.module, call.followed_by if call is chosen else None).label
        infos.append(LayerInfo(label, type(call.module).__name__, call.shape, call is chosen))
    return infos


def _choice(calls: list[_Call]) -> _Call:
    for call in reversed(calls):
        # Before its nonlinearity a normalised map is centred on zero, and class activation maps of it are blank.
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
    """Records, by each tensor's id, the function that made it and the nonlinearities it went into, with the step."""

    def __init__(self) -> None:
        super().__init__()
        self.step = 0
        self.made_by: dict[int, str] = {}
        self.nonlinearities: dict[int, list[tuple[int, str]]] = {}
        self.alive: list[Tensor] = []

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Any = (),
        kwargs: Any = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.step += 1
        name = getattr(func, "__name__", "")
        if args and isinstance(args[0], Tensor) and name in NONLINEARITIES:
            self.nonlinearities.setdefault(id(args[0]), []).append((self.step, NONLINEARITIES[name]))
        if isinstance(result, Tensor):
            # Kept alive, so that no other tensor gets the same id.
            self.alive.append(result)
            self.made_by[id(result)] = name.rstrip("_")
        return result

    def nonlinearity_after(self, tensor: Tensor, step: int) -> str | None:
        """The first nonlinearity that took the tensor after a step."""
        return next((name for at, name in self.nonlinearities.get(id(tensor), []) if at > step), None)
