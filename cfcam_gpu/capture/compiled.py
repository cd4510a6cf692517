"""A model compiled in two halves: the body, down to the target layer's output, and the head, from there to the logits.

`torch.compile` does not see the hook that cuts the graph at the target layer, so `torch.fx` splits the
model there first. The head alone is differentiated. A model that cannot be split runs as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from cfcam_gpu._utils.checks import Check
from cfcam_gpu._utils.device import out_of_memory
from cfcam_gpu._utils.messages import first_line
from cfcam_gpu.capture.hooks import first_tensor, has_hooks
from cfcam_gpu.capture.layers import NONLINEARITIES, TargetLayer
from cfcam_gpu.capture.model_state import is_compiled, modules_of
from cfcam_gpu.errors import CFCAMError

log = logging.getLogger("cfcam_gpu")

#: How the halves are compiled where the model does not say.
BACKEND = "inductor"

#: Most kinds of batches (shape, dtype, memory format, autocast) that are compiled for one layer of a model.
SHAPES = 8

#: Largest difference of the split model's logits from the model's, relative and absolute: rounding.
_TOLERANCE = 1e-3


class _NotSplitError(CFCAMError):
    """The model cannot be run in two halves; the message is the reason."""


@dataclass(frozen=True)
class _Halves:
    """A model split at a layer.

    Attributes:
        body: images -> the layer's output, and what else the head takes: no tensors.
        head: all of that -> the model's output.
        calls: how often the layer runs in a forward pass.
        modules: those of the model, in the order of `modules_of`.
        tensors: (module, name, tensor) of the parameters and buffers that the halves read by themselves,
            not through a module of the model.
    """

    body: Callable[..., Any]
    head: Callable[..., Any]
    calls: int
    modules: list[nn.Module]
    tensors: list[tuple[nn.Module, str, Any]]

    def fits(self, modules: Sequence[nn.Module]) -> bool:
        """Whether the model still has these modules and tensors."""
        tensors = (getattr(owner, name, None) is tensor for owner, name, tensor in self.tensors)
        return _same(self.modules, modules) and all(tensors)


def _same(before: Sequence[nn.Module], now: Sequence[nn.Module]) -> bool:
    return len(before) == len(now) and all(one is other for one, other in zip(before, now, strict=True))


@dataclass(frozen=True)
class Passed:
    """A forward pass in two halves.

    Attributes:
        output: the model's.
        calls: how often the layer ran.
        head: from the layer's output to the model's output, for these images.
    """

    output: Any
    calls: int
    head: Callable[[Tensor], Any]


class CompiledModel:
    """A model's forward pass for `capture`, compiled where that is possible.

    The first batch is compiled for its shape at once, another shape when it comes for the second time,
    so that an odd last batch does not cost a compilation. Changed weights are read at every call; a
    changed module or another layer makes a new split.

    Args:
        backend: of `torch.compile`.
        explicit: whether the caller asked for compiled code, and is told why there is none.

    Example:
        >>> from cfcam_gpu.capture import capture, find_layer
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 2))
        >>> compiled = CompiledModel(backend="eager")
        >>> capture(model, find_layer(model, "1"), torch.rand(5, 3, 8, 8), compiled=compiled).calls
        1
    """

    def __init__(self, backend: Any = None, *, explicit: bool = True) -> None:
        self.backend = backend or BACKEND
        self.explicit = explicit
        self._layer: tuple[str, nn.Module] | None = None
        self._halves: _Halves | None = None
        self._refused: list[nn.Module] | None = None
        self._compiled: set[Any] = set()
        self._came_once: set[Any] = set()
        self._said: set[str] = set()

    def run(
        self,
        model: nn.Module,
        layer: TargetLayer,
        images: Tensor,
        cut: Callable[[Any], Any],
        check: Check,
    ) -> Passed | None:
        """A forward pass of a frozen model in eval mode; None: run the model itself.

        Args:
            cut: from the layer's output to the tensor that the head goes on with.
            check: called before the body and before the head.

        Raises:
            torch.OutOfMemoryError: of the compiled code as well.
        """
        images = images.detach()
        try:
            halves = self._ready(model, layer, images)
            if halves is None or not self._due(images):
                return None
            check()
            with torch.no_grad():
                output, *values = self._call(halves.body, images)
            if first_tensor(output) is not output:
                raise _NotSplitError("the target layer puts out a tuple")
            output = cut(output)
            check()

            def head(output: Tensor) -> Any:
                return self._call(halves.head, output, *values)

            return Passed(head(output), halves.calls, head)
        except _NotSplitError as reason:
            self.refuse(str(reason))
            self._halves, self._refused = None, modules_of(model)
            return None

    def refuse(self, reason: str) -> None:
        """Tells the caller, once for each reason, that the model is not compiled."""
        if self.explicit and reason not in self._said:
            log.warning("the model is not compiled: %s", reason)
        self._said.add(reason)

    def _ready(self, model: nn.Module, layer: TargetLayer, images: Tensor) -> _Halves | None:
        """The halves of the model as it is now; None where that was refused before."""
        modules = modules_of(model)
        if any(map(has_hooks, modules)):
            self.refuse("its modules have hooks, which compiled code would not run")
            return None
        if any(map(is_compiled, modules)):
            self.refuse("parts of it are compiled already")
            return None
        key = (layer.label, layer.module)
        if key == self._layer:
            if self._halves is not None and self._halves.fits(modules):
                return self._halves
            if self._refused is not None and _same(self._refused, modules):
                return None
        self._layer, self._halves, self._refused = key, None, None
        self._compiled.clear()
        self._came_once.clear()
        halves = _split(model, layer)
        _check_split(model, halves, images[:1])
        # A shape at a time: code for any shape is slower.
        body, head = (
            torch.compile(half, backend=self.backend, dynamic=False) for half in (halves.body, halves.head)
        )
        self._halves = replace(halves, body=body, head=head)
        return self._halves

    def _due(self, images: Tensor) -> bool:
        """Whether a batch of this kind is compiled, or to be compiled now."""
        kind = images.device.type
        autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        key = (images.shape, images.stride(), images.dtype, autocast, torch.is_grad_enabled())
        if key in self._compiled:
            return True
        if len(self._compiled) == SHAPES:
            self.refuse(f"for more than {SHAPES} shapes of batches; give batches of one size")
            return False
        if self._compiled and key not in self._came_once:
            self._came_once.add(key)
            return False
        self._compiled.add(key)
        return True

    @staticmethod
    def _call(half: Callable[..., Any], *args: Any) -> Any:
        try:
            return half(*args)
        except Exception as error:
            if out_of_memory(error):
                raise torch.OutOfMemoryError(first_line(error)) from error
            cause = getattr(error, "inner_exception", error)  # a backend's error, inside one of torch.compile
            raise _NotSplitError(f"torch.compile failed: {first_line(cause)}") from error


def _split(model: nn.Module, layer: TargetLayer) -> _Halves:
    """The halves of a model, not compiled yet.

    Raises:
        _NotSplitError: with the reason.
    """
    root = nn.Sequential(model)  # a forward pass with the images alone, whatever else the model takes
    tracer = _Tracer(root, layer.module)
    try:
        graph = tracer.trace(root)
    except Exception as error:
        raise _NotSplitError(
            f"torch.fx cannot trace it, as its code depends on values ({first_line(error)})"
        ) from error
    nodes = list(graph.nodes)
    cuts = _outputs(nodes, root, layer)
    if not cuts:
        raise _NotSplitError(f"torch.fx finds no output of layer {layer.label!r}")
    before = nodes[: nodes.index(cuts[-1]) + 1]
    after = nodes[len(before) :]
    needed = {needed for node in after for needed in node.all_input_nodes} & set(before) - {cuts[-1]}
    # Parameters and buffers of the model are read by each half, other values are handed over.
    read = [node for node in before if node in needed and node.op == "get_attr"]
    values = [node for node in before if node in needed and node.op != "get_attr"]

    body, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    _copy(before, body, copies)
    body.output((copies[cuts[-1]], *(copies[node] for node in values)))

    head, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in (cuts[-1], *values):
        copies[node] = head.placeholder(node.name)
    _copy([*read, *after], head, copies)
    tensors = [_owner(root, node.target) for node in nodes if node.op == "get_attr"]
    return _Halves(
        fx.GraphModule(root, body),
        fx.GraphModule(root, head),
        len(cuts),
        modules_of(model),
        [entry for entry in tensors if entry[0] is not root],
    )


class _Tracer(fx.Tracer):
    """Looks only into the modules that contain the layer; others are called as they are."""

    proxy_buffer_attributes = True

    def __init__(self, root: nn.Module, layer: nn.Module) -> None:
        super().__init__()
        self.around = {
            id(module) for module in modules_of(root) if module is not layer and layer in modules_of(module)
        }

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002  (fx's signature)
        return id(m) not in self.around


def _outputs(nodes: Sequence[fx.Node], root: nn.Module, layer: TargetLayer) -> list[fx.Node]:
    """The layer's outputs in order; with `layer.then`, those of the function of that name after it."""
    calls = [n for n in nodes if n.op == "call_module" and root.get_submodule(str(n.target)) is layer.module]
    if layer.then is None:
        return calls
    following = [
        next((n for n in nodes[nodes.index(call) + 1 :] if _is_function(n, layer.then, call)), None)
        for call in calls
    ]
    return [node for node in following if node is not None]


def _is_function(node: fx.Node, function: str, argument: fx.Node) -> bool:
    if node.op not in ("call_function", "call_method") or not node.args or node.args[0] is not argument:
        return False
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return NONLINEARITIES.get(name) == function


def _copy(nodes: Sequence[fx.Node], graph: fx.Graph, copies: dict[fx.Node, fx.Node]) -> None:
    for node in nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)


def _owner(root: nn.Module, target: Any) -> tuple[nn.Module, str, Any]:
    path, _, name = target.rpartition(".")
    owner = root.get_submodule(path)
    return owner, name, getattr(owner, name)


def _check_split(model: nn.Module, halves: _Halves, image: Tensor) -> None:
    """Runs both halves as they are and compares them with the model, on an image (1,3,H,W).

    Raises:
        _NotSplitError: a tensor from before the layer goes into the head, or the logits differ.
    """
    try:
        with torch.no_grad():
            output, *values = halves.body(image)
            tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
            if not tensors:
                split = halves.head(output, *values)
                whole = model(image)
    except Exception as error:
        if out_of_memory(error):
            raise
        raise _NotSplitError(f"it does not run in two halves ({first_line(error)})") from error
    if tensors:
        raise _NotSplitError(
            "code behind the target layer also reads tensors from before it, as of a skip connection; "
            "choose the layer that the connection ends at"
        )
    pairs = zip(tree_leaves(split), tree_leaves(whole), strict=True)
    if not all(_close(a, b) for a, b in pairs if isinstance(a, Tensor) and isinstance(b, Tensor)):
        raise _NotSplitError("in two halves it gives other logits")


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(
        a.float(), b.float(), rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True
    )


def backend_of(model: nn.Module) -> Any:
    """The backend of a model that `torch.compile` wrapped; None: it is not such a model.

    CUDA graphs, which write each call's results over the last one's, are left out.

    Example:
        >>> backend_of(torch.compile(nn.ReLU(), backend="eager")).compiler_name, backend_of(nn.ReLU())
        ('eager', None)
    """
    while not hasattr(model, "_orig_mod"):
        if not isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            return None
        model = model.module
    backend: Any = getattr(getattr(model, "dynamo_ctx", None), "callback", None)
    while hasattr(backend, "_torchdynamo_orig_backend"):
        backend = backend._torchdynamo_orig_backend
    name, options = getattr(backend, "compiler_name", ""), getattr(backend, "config", {})
    graphs = name == "cudagraphs" or options.get("triton.cudagraphs")
    return BACKEND if backend is None or graphs else backend
