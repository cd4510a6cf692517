"""Float32 arithmetic that stays float32, whatever global settings the caller has chosen."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from cfcam_gpu._utils.switches import SharedSwitch


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
    with contextlib.ExitStack() as stack:
        stack.enter_context(_EXACT_PRODUCTS)
        stack.enter_context(torch.no_grad())
        if torch.amp.is_autocast_available(device.type):
            stack.enter_context(torch.autocast(device.type, enabled=False))
        yield


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
