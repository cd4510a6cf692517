"""Float32 products are float32 inside, and the caller's settings come back."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from cfcam_gpu._utils.precision import full_float32

CPU = torch.device("cpu")


def settings() -> list[str]:
    cpu: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    return [backend.fp32_precision for backend in (torch.backends.cuda.matmul, cpu)]


def test_settings_are_float32_inside_and_restored_after_an_exception():
    cpu: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    original = cpu.fp32_precision
    cpu.fp32_precision = "bf16"
    try:
        outside = settings()
        with contextlib.suppress(KeyError), full_float32(CPU):
            assert settings() == ["ieee", "ieee"]
            assert not torch.is_grad_enabled()
            raise KeyError
        assert settings() == outside
        assert torch.is_grad_enabled()
    finally:
        cpu.fp32_precision = original


def test_autocast_does_not_reach_inside():
    a = torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu"):
        assert (a @ a).dtype == torch.bfloat16
        with full_float32(CPU):
            torch.testing.assert_close((a @ a).double(), a.double() @ a.double(), rtol=1e-6, atol=0)
