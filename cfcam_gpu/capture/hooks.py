"""Replacing the output of a layer while a model runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from cfcam_gpu._utils.undo import Undo, each, one_step, until
from cfcam_gpu.capture.layers import NONLINEARITIES, TargetLayer


def first_tensor(output: Any) -> Any:
    """What a layer put out, or the first of a tuple of tensors: blocks of transformers return such tuples.

    Example:
        >>> import torch
        >>> first_tensor((torch.ones(1), None))
        tensor([1.])
    """
    is_tuple = type(output) in (tuple, list) and len(output) > 0
    return output[0] if is_tuple and isinstance(output[0], Tensor) else output


def with_first(output: Any, tensor: Any) -> Any:
    """What a layer put out, with another tensor in place of `first_tensor`.

    Example:
        >>> import torch
        >>> with_first((torch.ones(1), None), torch.zeros(1))
        (tensor([0.]), None)
    """
    return tensor if first_tensor(output) is output else type(output)((tensor, *output[1:]))


def has_hooks(module: torch.nn.Module) -> bool:
    """Whether a module has hooks of its own, which neither compiled code nor a CUDA graph runs.

    Example:
        >>> import torch
        >>> module = torch.nn.ReLU()
        >>> has_hooks(module), bool(module.register_forward_hook(print)), has_hooks(module)
        (False, True, True)
    """
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def add_hook(hooks: Any, hook: Callable[..., Any], undo: Undo) -> None:
    """Add a hook to one of a module's dictionaries of hooks, until `undo` runs.

    The hook sees the calls of this thread: another thread may run the model in the meantime.

    Example:
        >>> import torch
        >>> module, undo = torch.nn.ReLU(), Undo()
        >>> add_hook(module._forward_hooks, lambda *_: print("ran"), undo)
        >>> _ = module(torch.zeros(1))
        ran
        >>> undo.run()
        >>> _ = module(torch.zeros(1))
    """
    thread = threading.get_ident()

    def of_this_thread(*arguments: Any) -> Any:
        return hook(*arguments) if threading.get_ident() == thread else None

    handle = RemovableHandle(hooks)
    undo.add(hooks.pop, handle.id, None)
    hooks[handle.id] = of_this_thread


def replace_outputs(layer: TargetLayer, replace: Callable[[Any], Any], undo: Undo) -> None:
    """Put `replace(output)` in place of every output of the layer, or of the first of a tuple, until `undo` runs.

    Example:
        >>> import torch
        >>> from cfcam_gpu.capture import find_layer
        >>> model, undo = torch.nn.Sequential(torch.nn.Identity()), Undo()
        >>> replace_outputs(find_layer(model, "0"), lambda output: output + 1, undo)
        >>> model(torch.zeros(2))
        tensor([1., 1.])
        >>> undo.run()
    """
    if layer.then is None:

        def replaced(_module: object, _arguments: object, output: Any) -> Any:
            return with_first(output, replace(first_tensor(output)))

        add_hook(layer.module._forward_hooks, replaced, undo)
    else:
        mode = _AfterFunction(layer.then, replace)
        enter_mode(mode, undo)
        add_hook(layer.module._forward_hooks, lambda _m, _args, output: mode.watch(output), undo)


def enter_mode(mode: TorchFunctionMode, undo: Undo) -> None:
    """Enter the mode, until `undo` runs.

    Example:
        >>> import torch
        >>> undo = Undo()
        >>> enter_mode(_AfterFunction("relu", torch.neg), undo)
        >>> undo.run()
    """
    keep_modes(undo)
    mode.__enter__()


def keep_modes(undo: Undo) -> None:
    """Put this thread's function modes back when `undo` runs: those that were entered and those that were lost.

    An interrupt in PyTorch's own handling of a mode can lose it.

    Example:
        >>> undo = Undo()
        >>> with torch.device("cpu"):  # a mode
        ...     keep_modes(undo)
        ...     lost = torch._C._pop_torch_function_stack()
        ...     undo.run()
        ...     torch._C._get_function_stack_at(0) is lost
        True
    """
    count: Any = torch._C._len_torch_function_stack
    modes = [torch._C._get_function_stack_at(place) for place in range(count())]
    undo.add(
        one_step(
            until(count, 0, torch._C._pop_torch_function_stack),
            each(torch._C._push_on_torch_function_stack, modes),
        )
    )


class _AfterFunction(TorchFunctionMode):
    """Applies `replace` to the output of the first call of `function` on the tensor being watched."""

    def __init__(self, function: str, replace: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.replace = replace
        self.watched: Tensor | None = None

    def watch(self, output: Any) -> None:
        self.watched = output

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Any = (),
        kwargs: Any = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        called = NONLINEARITIES.get(getattr(func, "__name__", ""))
        if self.watched is not None and called == self.function and args and args[0] is self.watched:
            self.watched = None
            return self.replace(result)
        return result
