"""The device a model runs on, and the errors it raises there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from cfcam_gpu._utils.messages import first_line
from cfcam_gpu.errors import BackendError, CFCAMError, ConfigError, OutOfMemory

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


def _automatic() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    ranks = [os.environ[name] for name in _LOCAL_RANKS if os.environ.get(name, "").isdecimal()]
    count = torch.cuda.device_count()
    return torch.device("cuda", int(ranks[0]) % count) if ranks and count > 1 else torch.device("cuda")


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
    except CFCAMError:
        raise
    except (RuntimeError, MemoryError, AssertionError, ValueError) as error:
        if _out_of_memory(error):
            raise OutOfMemory(
                f"out of memory with images {tuple(shape)}; use a smaller --size, another --precision "
                "or --device cpu"
            ) from error
        raise CFCAMError(
            f"the model failed on images {tuple(shape)}: {first_line(error)}; check that it accepts this --size"
        ) from error


def _out_of_memory(error: Exception) -> bool:
    # On the CPU, PyTorch raises a plain RuntimeError.
    text = str(error).lower()
    signs = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(sign in text for sign in signs)
