"""Replacing the output of a layer while a model runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

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


@contextlib.contextmanager
def replaced_outputs(layer: TargetLayer, replace: Callable[[Any], Any]) -> Iterator[None]:
    """Within it, `replace(output)` takes the place of every output of the layer, or of the first of a tuple.

    Example:
        >>> import torch
        >>> from cfcam_gpu.capture import find_layer
        >>> model = torch.nn.Sequential(torch.nn.Identity())
        >>> with replaced_outputs(find_layer(model, "0"), lambda output: output + 1):
        ...     model(torch.zeros(2))
        tensor([1., 1.])
    """
    with contextlib.ExitStack() as stack:
        if layer.then is None:
            handle = layer.module.register_forward_hook(
                lambda _m, _args, output: with_first(output, replace(first_tensor(output)))
            )
        else:
            mode = stack.enter_context(_AfterFunction(layer.then, replace))
            handle = layer.module.register_forward_hook(lambda _m, _args, output: mode.watch(output))
        stack.callback(handle.remove)
        yield


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
