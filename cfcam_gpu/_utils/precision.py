"""Float32 arithmetic that stays float32, whatever global settings the caller has chosen."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cfcam_gpu._utils.switches import SharedSwitch
from cfcam_gpu._utils.undo import Undo, one_step

#: Kinds of devices without float64.
NO_FLOAT64 = {"mps"}


def widest(tensor: Tensor) -> Tensor:
    """The tensor in float64, or in float32 on a device without float64.

    Example:
        >>> widest(torch.ones(1)).dtype
        torch.float64
    """
    return tensor.to(widest_dtype(tensor.device))


def widest_dtype(device: torch.device) -> torch.dtype:
    """float64, or float32 on a device without float64.

    Example:
        >>> widest_dtype(torch.device("cpu")), widest_dtype(torch.device("mps"))
        (torch.float64, torch.float32)
    """
    return torch.float32 if device.type in NO_FLOAT64 else torch.float64


@contextlib.contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Without gradients, autocast on the device, and TF32 or bfloat16 inside float32 matrix products.

    The caller's settings are restored on leaving. That of the products holds for the whole process; it
    is restored when the last thread leaves.

    Example:
        >>> with torch.autocast("cpu"), full_float32(torch.device("cpu")):
        ...     product = torch.ones(2, 2) @ torch.ones(2, 2)
        >>> product.dtype
        torch.float32
    """
    undo = Undo()
    try:
        use_full_float32(device, undo)
        yield
    finally:
        undo.run()


def use_full_float32(device: torch.device, undo: Undo) -> None:
    """As `full_float32`, until `undo` runs."""
    _EXACT_PRODUCTS.hold(undo)
    use_gradients(undo, enabled=False)
    if torch.amp.is_autocast_available(device.type):
        use_autocast(device.type, None, undo)


def use_gradients(undo: Undo, *, enabled: bool) -> None:
    """As `torch.set_grad_enabled`, until `undo` runs.

    Example:
        >>> undo = Undo()
        >>> use_gradients(undo, enabled=False)
        >>> torch.ones(1, requires_grad=True).exp().requires_grad
        False
        >>> undo.run()
    """
    undo.add(without_modes(partial(torch._C._set_grad_enabled, torch.is_grad_enabled())))
    torch._C._set_grad_enabled(enabled)


def differentiable_sum(values: Tensor, weights: Tensor | float = 1.0) -> Tensor:
    """The weighted sum of values that have a graph, with a graph also where the caller has gradients off.

    Example:
        >>> with torch.no_grad():
        ...     differentiable_sum(torch.ones(2, requires_grad=True)).requires_grad
        True
    """
    undo = Undo()
    try:
        use_gradients(undo, enabled=True)
        total = (values * weights).sum()
        return total
    finally:
        undo.run()


def without_modes(step: Callable[[], Any]) -> Callable[[], Any]:
    """The step of an `Undo` without the caller's function modes, which take calls of PyTorch and are Python code.

    Example:
        >>> undo, weight = Undo(), torch.zeros(1)
        >>> undo.add(without_modes(weight.requires_grad_))
        >>> with torch.device("cpu"):  # a mode
        ...     undo.run()
        >>> weight.requires_grad
        True
    """
    plain: Any = torch._C.DisableTorchFunction()
    return one_step(plain.__enter__, step, partial(plain.__exit__, None, None, None))


def leave_inference_mode(undo: Undo) -> None:
    """As `torch.inference_mode(mode=False)`, until `undo` runs.

    Example:
        >>> undo = Undo()
        >>> with torch.inference_mode():
        ...     leave_inference_mode(undo)
        ...     inside = torch.is_inference_mode_enabled()
        ...     undo.run()
        >>> inside
        False
    """
    if torch.is_inference_mode_enabled():
        mode: Any = torch._C._InferenceMode(False)  # noqa: FBT003  (takes no keyword)
        undo.change(mode.__enter__, partial(mode.__exit__, None, None, None))


def use_autocast(kind: str, dtype: torch.dtype | None, undo: Undo) -> None:
    """As `torch.autocast` on a kind of device, until `undo` runs; None: without autocast.

    Example:
        >>> undo = Undo()
        >>> use_autocast("cpu", torch.bfloat16, undo)
        >>> (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
        torch.bfloat16
        >>> undo.run()
    """
    undo.add(torch.clear_autocast_cache)
    undo.change(torch.autocast_increment_nesting, torch.autocast_decrement_nesting)
    undo.add(torch.set_autocast_dtype, kind, torch.get_autocast_dtype(kind))
    undo.add(torch.set_autocast_enabled, kind, torch.is_autocast_enabled(kind))
    if dtype is not None:
        torch.set_autocast_dtype(kind, dtype)
    torch.set_autocast_enabled(kind, dtype is not None)


@contextlib.contextmanager
def _exact_products() -> Iterator[None]:
    cpu: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    backends = (torch.backends.cuda.matmul, cpu)
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, setting in zip(backends, before, strict=True):
            backend.fp32_precision = setting


_EXACT_PRODUCTS = SharedSwitch(_exact_products)
