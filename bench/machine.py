"""The measured peaks of the machine that a benchmark runs on: operations and bytes per second."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from bench.common import synchronize
from cfcam_gpu._utils.precision import full_float32

#: Side of the matrices that are multiplied, by device type; and bytes of the copy, more than any cache holds.
MATRIX = {"cpu": 2048, "cuda": 8192}
COPY_BYTES = 256 * 2**20


def peaks(device: str, model_dtype: torch.dtype) -> dict[str, Any]:
    """Gflop/s of matrix products in float32, by number of threads, and in the model's precision; GB/s of a copy.

    A multiply-add counts as two operations. A copied byte counts as one byte read and one byte written.
    """
    most = torch.get_num_threads()
    by_threads = {}
    for count in sorted({most, *(2**k for k in range(most.bit_length()) if 2**k <= most)}):
        with threads(count):
            by_threads[str(count)] = gflops(device, torch.float32)
    return {
        "float32_gflops_by_threads": by_threads,
        "float32_gflops": by_threads[str(most)],
        "model_gflops": gflops(device, model_dtype),
        "copy_gbytes": gbytes(device),
    }


def gflops(device: str, dtype: torch.dtype) -> float:
    """Gflop/s of a square matrix product; float32 without TF32."""
    side = MATRIX[torch.device(device).type]
    a = torch.randn(side, side, device=device).to(dtype)
    with full_float32(a.device):
        return round(2e-9 * side**3 / fastest(lambda: a @ a), 1)


def gbytes(device: str) -> float:
    """GB/s, read and written, of a large copy."""
    source = torch.ones(COPY_BYTES // 4, device=device)
    target = torch.empty_like(source)
    return round(2e-9 * COPY_BYTES / fastest(lambda: target.copy_(source)), 2)


def fastest(work: Callable[[], object], repeats: int = 5) -> float:
    """Seconds of the fastest of several calls, after one call that does not count."""
    seconds = []
    for _ in range(repeats + 1):
        synchronize()
        start = time.perf_counter()
        work()
        synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


@contextmanager
def threads(count: int) -> Iterator[None]:
    """PyTorch uses this many threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
