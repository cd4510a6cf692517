"""The device asked for is the one used, and what a model raises there is one line."""

from __future__ import annotations

import pytest
import torch

from cfcam_gpu._utils import device as devices
from cfcam_gpu._utils.device import copied_to, model_errors, resolve_device
from cfcam_gpu.errors import BackendError, CFCAMError, ConfigError, OutOfMemory


@pytest.mark.parametrize("text", ["gpu", "cuda:", "cuda:-1", "mps", ""])
def test_unknown_devices_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown device {text!r}; choose auto, cpu, cuda or cuda:N"):
        resolve_device(text)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As if there were four CUDA devices, and no launcher."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_a_device_asked_for_is_never_replaced_by_another(cuda: pytest.MonkeyPatch) -> None:
    assert resolve_device("auto") == torch.device("cuda")
    assert resolve_device("cuda:3") == torch.device("cuda:3")
    with pytest.raises(
        BackendError, match=r"device 'cuda:4' was asked for, but PyTorch .* sees 4 CUDA device"
    ):
        resolve_device("cuda:4")
    cuda.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(BackendError, match=r"sees 0 CUDA devices; use --device cpu"):
        resolve_device("cuda")


@pytest.mark.parametrize(("variable", "rank", "index"), [("LOCAL_RANK", "1", 1), ("SLURM_LOCALID", "6", 2)])
def test_the_processes_of_a_launcher_spread_over_the_devices(
    cuda: pytest.MonkeyPatch, variable: str, rank: str, index: int
) -> None:
    cuda.setenv(variable, rank)
    assert resolve_device("auto") == torch.device("cuda", index)
    assert resolve_device("cuda") == torch.device("cuda")
    cuda.setattr(torch.cuda, "device_count", lambda: 1)
    assert resolve_device("auto") == torch.device("cuda")


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), OutOfMemory, "out of memory with images"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), OutOfMemory, "out of memory with"),
        (MemoryError(), OutOfMemory, "out of memory with"),
        (
            RuntimeError("mat1 and mat2 differ\nmore"),
            CFCAMError,
            "the model failed on .*: mat1 and mat2 differ; check",
        ),
        (
            ValueError(),
            CFCAMError,
            r"the model failed on images \(1, 3, 8, 8\): ValueError; check that it accepts this --size",
        ),
        (BackendError("as it is"), BackendError, "^as it is$"),
    ],
)
def test_what_a_model_raises_is_one_line_that_says_what_to_do(
    error: Exception, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught, model_errors((1, 3, 8, 8)):
        raise error
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["Triton Error [CUDA]: out of memory", "CUDNN_STATUS_ALLOC_FAILED", "backend raised: CUDA out of memory"],
)
def test_memory_that_is_used_up_is_known_by_the_messages_of_all_who_allocate(text: str) -> None:
    assert devices.out_of_memory(RuntimeError(text))


def test_a_copy_to_a_cuda_device_is_from_pinned_memory_and_nobody_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps: list[object] = []

    def pinned(tensor: torch.Tensor) -> torch.Tensor:
        steps.append("pinned")
        return tensor

    def to(tensor: torch.Tensor, device: torch.device, *, non_blocking: bool = False) -> torch.Tensor:
        steps.append((device, non_blocking))
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pinned)
    monkeypatch.setattr(torch.Tensor, "to", to)
    copied_to(torch.zeros(1), torch.device("cuda", 1))
    copied_to(torch.zeros(1), torch.device("cpu"))
    assert steps == ["pinned", (torch.device("cuda", 1), True), (torch.device("cpu"), False)]


def test_what_is_read_together_is_what_was_packed() -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "blank": torch.tensor([True, False, True]),
        "grid": torch.randn(3, 5, 2, generator=generator),
        "eps": torch.randn(3, generator=generator, dtype=torch.float64),
        "target": torch.tensor([3, -1, 2**40]),
    }
    arrays = devices.unpacked(devices.packed(tensors).numpy(), tensors)
    assert list(arrays) == list(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(torch.from_numpy(arrays[name]), tensor)
        assert torch.equal(torch.from_numpy(devices.read_together(tensors)[name]), tensor)
