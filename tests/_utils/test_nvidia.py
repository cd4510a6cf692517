"""A GPU that PyTorch cannot use is named with the reason; the driver and the build are stand-ins."""

from __future__ import annotations

import ctypes
import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cfcam_gpu._utils import device, nvidia


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A driver for CUDA 12.4, and no device that PyTorch can use."""
    monkeypatch.setattr(nvidia, "driver_version", lambda: (12, 4))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "12.1")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    device._note_unusable_gpu.cache_clear()
    return monkeypatch


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (None, "is built without CUDA; install a build for CUDA 12.4 or older, see pytorch.org/get-started"),
        ("13.0", "is built for CUDA 13.0; update the driver, or install a build of PyTorch for CUDA 12"),
        (
            "12.6",
            "built for CUDA 12.6, finds no device it can use; `nvidia-smi` shows whether the driver works",
        ),
    ],
)
def test_the_reason_names_driver_and_build(
    driver: pytest.MonkeyPatch, build: str | None, reason: str
) -> None:
    driver.setattr(torch.version, "cuda", build)
    told = nvidia.why_unusable()
    assert told is not None
    assert told.endswith(reason)
    assert "CUDA up to 12.4" in told
    assert torch.__version__ in told


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_nothing_is_wrong_without_a_driver_or_with_a_hidden_gpu(
    driver: pytest.MonkeyPatch, hidden: str
) -> None:
    driver.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert nvidia.why_unusable() is None
    driver.delenv("CUDA_VISIBLE_DEVICES")
    driver.setattr(nvidia, "driver_version", lambda: None)
    assert nvidia.why_unusable() is None


def test_auto_says_once_why_it_takes_the_cpu(
    driver: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    driver.setattr(torch.version, "cuda", "13.0")
    with caplog.at_level(logging.WARNING, logger="cfcam_gpu"):
        assert [device.resolve_device("auto") for _ in range(2)] == [torch.device("cpu")] * 2
        device.resolve_device("cpu")
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(
        "running on the CPU: the NVIDIA driver supports CUDA up to 12.4, but "
    )


@pytest.mark.parametrize(
    ("answer", "number", "version"), [(0, 12040, (12, 4)), (0, 13000, (13, 0)), (1, 12040, None)]
)
def test_the_driver_is_asked_for_its_version(
    monkeypatch: pytest.MonkeyPatch, answer: int, number: int, version: tuple[int, int] | None
) -> None:
    def asked(pointer: Any) -> int:
        pointer._obj.value = number
        return answer

    monkeypatch.setattr(ctypes, "CDLL", lambda _name: SimpleNamespace(cuDriverGetVersion=asked))
    assert nvidia.driver_version() == version


def test_no_library_means_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert nvidia.driver_version() is None
