"""Where a model runs, and what it raises there told in one line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from cfcam_gpu.errors import BackendError, CFCAMError, ConfigError, OutOfMemory

#: The process's number on its machine, as torchrun and Slurm say it.
_LOCAL_RANKS = ("LOCAL_RANK", "SLURM_LOCALID")


def resolve_device(text: str) -> torch.device:
    """`auto` (a CUDA device, else the CPU), `cpu`, `cuda` or `cuda:N`, checked to exist.

    `auto` spreads the processes that torchrun or Slurm start on a machine over its CUDA devices.

    Raises:
        ConfigError: not one of these.
        BackendError: a CUDA device that is not there; asking for one never falls back to the CPU.
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
    """Turns what a model raises on images of a shape (B, 3, H, W) into one line that says what to do."""
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
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CFCAMError(
            f"the model failed on images {tuple(shape)}: {reason}; check that --size is one it takes"
        ) from error


def _out_of_memory(error: Exception) -> bool:
    # On the CPU PyTorch raises a plain RuntimeError.
    text = str(error).lower()
    signs = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(sign in text for sign in signs)
