"""The device a model runs on, and the errors it raises there."""

from __future__ import annotations

import functools
import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cfcam_gpu._utils.messages import first_line
from cfcam_gpu._utils.nvidia import why_unusable
from cfcam_gpu.errors import BackendError, CFCAMError, ConfigError, ModelFailedError, OutOfMemory

log = logging.getLogger("cfcam_gpu")

#: Environment variables with this process's rank on its machine: torchrun's and Slurm's.
_LOCAL_RANKS = ("LOCAL_RANK", "SLURM_LOCALID")


def resolve_device(text: str) -> torch.device:
    """The device that a text names, checked to exist.

    Args:
        text: `auto` (a CUDA device, or the CPU where there is none), `cpu`, `cuda` or `cuda:N`. With
            `auto`, the processes that torchrun or Slurm start on one machine get its CUDA devices in turn.

    Raises:
        ConfigError: not one of these.
        BackendError: a CUDA device that does not exist; the CPU never takes its place.

    Example:
        >>> resolve_device("cpu")
        device(type='cpu')
    """
    if text == "auto":
        return _automatic()
    if not re.fullmatch(r"cpu|cuda(:\d+)?", text):
        raise ConfigError(f"unknown device {text!r}; choose auto, cpu, cuda or cuda:N")
    device = torch.device(text)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise BackendError(
            f"device {text!r} was asked for, but PyTorch {torch.__version__} sees {count} CUDA devices; "
            "use --device cpu, or auto to take what there is"
        )
    return device


def names_cpu(text: str) -> bool:
    """Whether a text that `resolve_device` takes means the CPU on this machine.

    Example:
        >>> names_cpu("cpu"), names_cpu("cuda:0")
        (True, False)
    """
    return text == "cpu" or (text == "auto" and not _cuda_available())


def _cuda_available() -> bool:
    with warnings.catch_warnings():
        # PyTorch warns of a driver that is too old; `_note_unusable_gpu` says the same, and what to do.
        warnings.simplefilter("ignore")
        return torch.cuda.is_available()


def _automatic() -> torch.device:
    if not _cuda_available():
        _note_unusable_gpu()
        return torch.device("cpu")
    ranks = [os.environ[name] for name in _LOCAL_RANKS if os.environ.get(name, "").isdecimal()]
    count = torch.cuda.device_count()
    return torch.device("cuda", int(ranks[0]) % count) if ranks and count > 1 else torch.device("cuda")


@functools.cache
def _note_unusable_gpu() -> None:
    """Says once that there is a GPU which PyTorch cannot use."""
    reason = why_unusable()
    if reason is not None:
        log.warning("running on the CPU: %s", reason)


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's parameters; the CPU for a model without any.

    Example:
        >>> device_of(nn.Linear(3, 2))
        device(type='cpu')
    """
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def dtype_of(model: nn.Module, otherwise: torch.dtype = torch.float32) -> torch.dtype:
    """The dtype of the model's first floating-point parameter; `otherwise` for a model without any.

    Example:
        >>> dtype_of(nn.Linear(3, 2).half()), dtype_of(nn.ReLU())
        (torch.float16, torch.float32)
    """
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), otherwise)


def on_device(device: torch.device) -> AbstractContextManager[None]:
    """Within it a CUDA device is the current one of this thread; for other devices it does nothing.

    PyTorch's operations run where their tensors are. Triton's kernels and cuML run on the current device.

    Example:
        >>> with on_device(torch.device("cpu")):
        ...     pass
    """
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def copied_to(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; the host does not wait until a CUDA device has it.

    Example:
        >>> copied_to(torch.ones(1), torch.device("cpu"))
        tensor([1.])
    """
    if tensor.device == device or device.type == "cpu":
        return tensor.to(device)
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()  # from other memory, the host waits for the copy
    return tensor.to(device, non_blocking=True)


def read_together(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray[Any, Any]]:
    """The values of tensors (B,…), with one copy from their device: a wait for the device costs more than the copy.

    Example:
        >>> read_together({"heat": torch.tensor([0.5, 1.0]), "blank": torch.tensor([True, False])})
        {'heat': array([0.5, 1. ], dtype=float32), 'blank': array([ True, False])}
    """
    if all(tensor.device.type == "cpu" for tensor in tensors.values()):
        return {name: tensor.numpy() for name, tensor in tensors.items()}
    return unpacked(packed(tensors).cpu().numpy(), tensors)


def packed(tensors: Mapping[str, Tensor]) -> Tensor:
    """(B,bytes) uint8: the bytes of each row of each of the tensors (B,…).

    Example:
        >>> packed({"blank": torch.tensor([True, False]), "level": torch.tensor([3, 4], dtype=torch.uint8)})
        tensor([[1, 3],
                [0, 4]], dtype=torch.uint8)
    """
    rows = [tensor.reshape(len(tensor), -1).contiguous().view(torch.uint8) for tensor in tensors.values()]
    return torch.cat(rows, dim=1)


def unpacked(packed: np.ndarray[Any, Any], like: Mapping[str, Tensor]) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays that `packed` joined, with the shapes and types of the tensors in `like`.

    Example:
        >>> unpacked(np.array([[1, 3], [0, 4]], np.uint8), {"blank": torch.empty(2, dtype=bool, device="meta")})
        {'blank': array([ True, False])}
    """
    arrays, start = {}, 0
    for name, tensor in like.items():
        end = start + tensor[0].numel() * tensor.element_size()
        dtype = torch.empty(0, dtype=tensor.dtype).numpy().dtype
        arrays[name] = np.ascontiguousarray(packed[:, start:end]).view(dtype).reshape(tensor.shape)
        start = end
    return arrays


@contextmanager
def model_errors(shape: Sequence[int]) -> Iterator[None]:
    """Replaces an error that the model raises in this context by one whose message says what to do.

    Args:
        shape: (B, 3, H, W) of the images, for the message.

    Raises:
        OutOfMemory: the device's memory does not hold the batch.
        CFCAMError: the model failed otherwise; errors of this package pass unchanged.

    Example:
        >>> with model_errors((1, 3, 8, 8)):
        ...     raise RuntimeError("no")
        Traceback (most recent call last):
        cfcam_gpu.errors.CFCAMError: the model failed on images (1, 3, 8, 8): no; check that it accepts this --size
    """
    try:
        yield
    except ModelFailedError as error:
        raise CFCAMError(f"{error.sentence}; check that it accepts this --size") from error
    except CFCAMError:
        raise
    except (RuntimeError, MemoryError, AssertionError, ValueError) as error:
        if out_of_memory(error):
            raise OutOfMemory(
                f"out of memory with images {tuple(shape)}; use a smaller --size, another --precision "
                "or --device cpu"
            ) from error
        raise CFCAMError(
            f"the model failed on images {tuple(shape)}: {first_line(error)}; check that it accepts this --size"
        ) from error


def out_of_memory(error: BaseException) -> bool:
    """Whether an error, or what caused it, says that the device's memory is used up.

    On the CPU PyTorch raises a plain RuntimeError; so do a compiled model, a captured graph, Triton, cuDNN
    and cuBLAS on a GPU.

    Example:
        >>> out_of_memory(RuntimeError("Triton Error [CUDA]: out of memory")), out_of_memory(ValueError("no"))
        (True, False)
    """
    text = str(error).lower()
    signs = ("can't allocate memory", "not enough memory", "out of memory", "status_alloc_failed")
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(sign in text for sign in signs):
        return True
    return error.__cause__ is not None and out_of_memory(error.__cause__)
