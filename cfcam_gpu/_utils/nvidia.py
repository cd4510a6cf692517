"""Why PyTorch cannot use an NVIDIA GPU that has a driver."""

from __future__ import annotations

import ctypes
import os
import sys

import torch


def driver_version() -> tuple[int, int] | None:
    """The newest version of CUDA that the NVIDIA driver supports, as (major, minor); None without a driver.

    Example:
        >>> version = driver_version()
        >>> version is None or version >= (1, 0)
        True
    """
    try:
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        number = ctypes.c_int()
        failed = library.cuDriverGetVersion(ctypes.byref(number))
    except (OSError, AttributeError):
        return None
    return None if failed or number.value < 1000 else (number.value // 1000, number.value % 1000 // 10)


def why_unusable() -> str | None:
    """Why PyTorch, which sees no CUDA device, cannot use the NVIDIA GPU; None without a driver, or a hidden GPU."""
    driver = driver_version()
    if driver is None or os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return None
    supported, build = "{}.{}".format(*driver), torch.version.cuda
    if build is None:
        return (
            f"this machine has an NVIDIA driver (for CUDA up to {supported}), but PyTorch {torch.__version__} is "
            f"built without CUDA; install a build for CUDA {supported} or older, see pytorch.org/get-started"
        )
    if int(build.partition(".")[0]) > driver[0]:
        return (
            f"the NVIDIA driver supports CUDA up to {supported}, but PyTorch {torch.__version__} is built for CUDA "
            f"{build}; update the driver, or install a build of PyTorch for CUDA {driver[0]}"
        )
    return (
        f"this machine has an NVIDIA driver (for CUDA up to {supported}), but PyTorch {torch.__version__}, built for "
        f"CUDA {build}, finds no device it can use; `nvidia-smi` shows whether the driver works"
    )
