"""One forward pass of a model, written down: which modules ran, what they put out, and what became of it."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cfcam_gpu._utils.precision import differentiable_sum, use_gradients
from cfcam_gpu._utils.undo import Undo
from cfcam_gpu.capture.attended import Attended
from cfcam_gpu.capture.failures import run_model
from cfcam_gpu.capture.hooks import add_hook, enter_mode, first_tensor, with_first
from cfcam_gpu.capture.layers import NONLINEARITIES
from cfcam_gpu.capture.layouts import ChannelsFirst, Geometry, Layout, MapShape, geometry_of, readings
from cfcam_gpu.capture.model_state import make_explainable
from cfcam_gpu.capture.scoring import Scoring

#: Functions that hold or mix most of a model's work; how many have run says how far a pass has come.
_WORK = {
    "conv1d", "conv2d", "conv3d", "linear", "matmul", "__matmul__", "bmm", "baddbmm", "addmm", "einsum",
    "scaled_dot_product_attention", "multi_head_attention_forward",
}  # fmt: skip

#: Functions of which attention is made.
_ATTENTION = {"softmax", "scaled_dot_product_attention", "multi_head_attention_forward"}


@dataclass(frozen=True)
class Call:
    """The last call of a module that put out a tensor of three or four axes, or a tuple of which it is the first.

    Attributes:
        name: the module's name.
        output: the tensor, part of a graph from the image to the scores. Where a module passes a tensor on,
            it is another object than the one passed on: the scores may depend on the one and not the other.
        origin: the same for all calls that pass on the same tensor.
        attended: whether the output is queries, keys or values of an attention.
        taken: shape of the first tensor that the module took.
        made_by: name of the function of torch that made the output; None: an earlier tensor is passed on.
        followed_by: the nonlinearity that took the output first.
        share: how much of the model's work on maps was done by then, from 0 to 1.
        layouts: the ways to read the output as maps of more than one channel, the likeliest first.
        last: whether no convolution or linear layer ran after it.
    """

    name: str
    module: nn.Module
    output: Tensor
    origin: int
    attended: bool
    taken: tuple[int, ...] | None
    made_by: str | None
    followed_by: str | None
    share: float
    last: bool
    layouts: tuple[Layout, ...]

    @property
    def map_shape(self) -> MapShape:
        """(h,w) of the map, read in the likeliest way."""
        _, rows, columns = self.layouts[0].sizes(self.output.shape)
        return rows, columns

    @property
    def channels(self) -> int:
        """Of the map, read in the likeliest way."""
        return self.layouts[0].sizes(self.output.shape)[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """The output's shape without the batch axis."""
        return tuple(self.output.shape[1:])


@dataclass(frozen=True)
class Trace:
    """The calls of one forward pass, in the order in which they ended.

    Attributes:
        geometry: sizes of the image and of the maps that convolutions and the model's patches make.
        logits: the model's output, (1,classes) for a classifier.
        attention: whether the model attends: then not every output of four axes is a map.
    """

    calls: tuple[Call, ...]
    geometry: Geometry
    logits: Tensor
    attention: bool
    modules: dict[str, nn.Module] = field(repr=False)

    def gradients(self, calls: Sequence[Call]) -> list[Tensor | None]:
        """Of a mixture of the logits with respect to the calls' outputs; None: the logits do not depend on it."""
        outputs = [call.output for call in calls if call.output.requires_grad]
        if not outputs or not self.logits.requires_grad:
            return [None] * len(calls)
        generator = torch.Generator().manual_seed(0)
        mixture = torch.randn(self.logits.shape, generator=generator).to(self.logits)
        # With `grad_outputs` PyTorch imports SymPy, which takes about a second.
        score = differentiable_sum(self.logits, mixture)
        found = torch.autograd.grad(score, outputs, retain_graph=True, allow_unused=True)
        gradients = iter(found)
        return [next(gradients) if call.output.requires_grad else None for call in calls]


def trace(model: nn.Module, image: Tensor, scoring: Scoring | None = None) -> Trace:
    """Run the model once on an image (1,channels,H,W), with a graph from the image to the logits."""
    recorder = _Recorder()
    records: dict[nn.Module, tuple[str, Tensor, tuple[int, ...] | None, int]] = {}

    def record(name: str, module: nn.Module, arguments: Any, output: Any) -> Any:
        records.pop(module, None)
        first = first_tensor(output)
        if not (isinstance(first, Tensor) and first.ndim in (3, 4) and first.is_floating_point()):
            return None
        taken = next((tuple(one.shape) for one in arguments if isinstance(one, Tensor)), None)
        alias = recorder.alias(first)
        records[module] = (name, alias, taken, recorder.step)
        return with_first(output, alias)

    undo = Undo()
    try:
        make_explainable(model, undo)
        use_gradients(undo, enabled=True)
        for name, module in model.named_modules():
            if name:
                add_hook(module._forward_hooks, partial(record, name), undo)
        enter_mode(recorder, undo)
        # A copy that is no leaf may be changed in place.
        leaf = image.detach().clone().requires_grad_()
        logits = (scoring or Scoring()).logits(run_model(model, leaf.clone()))
    finally:
        undo.run()
    size = (image.shape[2], image.shape[3])
    named = geometry_of(model, size)
    geometry = replace(named, grids=tuple(dict.fromkeys([*named.grids, *recorder.grids])))
    calls = tuple(
        Call(
            name=name,
            module=module,
            output=output,
            origin=recorder.origin(output),
            attended=recorder.origin(output) in recorder.attended.ids,
            taken=taken,
            made_by=recorder.made_by.get(id(output)),
            followed_by=recorder.nonlinearity_after(output, step),
            share=bisect.bisect_right(recorder.work, step) / len(recorder.work) if recorder.work else 1.0,
            last=step >= recorder.last_work,
            layouts=_layouts(output.shape, geometry, recorder),
        )
        for module, (name, output, taken, step) in records.items()
    )
    return Trace(
        calls, geometry, logits, recorder.attention, dict(model.named_modules(remove_duplicate=False))
    )


def _layouts(shape: Sequence[int], geometry: Geometry, recorder: _Recorder) -> tuple[Layout, ...]:
    likely = readings(shape, geometry)
    if not likely and len(shape) == 4 and max(shape[2:]) > 1 and not recorder.attention:
        likely = [ChannelsFirst()]  # pooled to a size of its own
    return tuple(layout for layout in likely if layout.sizes(shape)[0] > 1)


class _Recorder(TorchFunctionMode):
    """Records which function made a tensor, which nonlinearities took it at which step, and what attention took.

    Tensors are known by the id of their origin: see `alias`.

    Attributes:
        work: steps of the functions that work on maps.
        last_work: step of the last that works on anything.
        grids: (h,w) that convolutions put out.
        attention: whether the model attends.
        attended: knows the queries, keys and values.
    """

    def __init__(self) -> None:
        super().__init__()
        self.step = 0
        self.made_by: dict[int, str] = {}
        self.nonlinearities: dict[int, list[tuple[int, str]]] = {}
        self.work: list[int] = []
        self.last_work = 0
        self.grids: dict[tuple[int, int], None] = {}
        self.attention = False
        self.attended = Attended()
        self._origins: dict[int, int] = {}
        self._alive: list[Tensor] = []

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
            at = self.nonlinearities.setdefault(self.origin(args[0]), [])
            at.append((self.step, NONLINEARITIES[name]))
        self.attention |= name in _ATTENTION
        taken = [self.origin(tensor) for tensor in _tensors(args)]
        for tensor in _tensors(result):
            # Kept alive, so that no other tensor gets the same id.
            self._alive.append(tensor)
            self.made_by[id(tensor)] = name.rstrip("_")
            self.attended.note(name, self.origin(tensor), taken)
        if name in _WORK:
            self._note_work(name, result[0] if isinstance(result, tuple) else result)
        return result

    def alias(self, tensor: Tensor) -> Tensor:
        """The same values as another object, of the same origin: a graph tells what took it and what the other."""
        alias = tensor.view_as(tensor)
        self._origins[id(alias)] = self.origin(tensor)
        self.made_by[id(alias)] = self.made_by.get(id(tensor), "")
        return alias

    def origin(self, tensor: Tensor) -> int:
        """The id of the tensor, or of that of which it is an alias."""
        return self._origins.get(id(tensor), id(tensor))

    def _note_work(self, name: str, result: Tensor) -> None:
        self.last_work = self.step
        on_maps = result.ndim >= 3 and sum(n > 1 for n in result.shape[1:]) >= 2
        if on_maps:
            self.work.append(self.step)
        if name == "conv2d" and on_maps:
            self.grids[(result.shape[2], result.shape[3])] = None

    def nonlinearity_after(self, tensor: Tensor, step: int) -> str | None:
        """The first nonlinearity that took the tensor after a step."""
        functions = self.nonlinearities.get(self.origin(tensor), [])
        return next((name for at, name in functions if at > step), None)


def _tensors(values: Any) -> Iterator[Tensor]:
    """The tensors among values, also inside tuples and lists."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (tuple, list)):
        for value in values:
            yield from _tensors(value)
