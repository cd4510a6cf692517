"""Memory that is freed stays with the process, so that the next tensors need no new pages from the kernel."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping

#: Parameters of glibc's `mallopt`, numbered as in malloc.h, and their values: no allocation gets a mapping of its own,
#: and free memory at the heap's end is not given back.
_KEEPING = {"M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, 2**31 - 1)}


def keep_freed_memory(environment: Mapping[str, str] = os.environ) -> bool:
    """Makes the C library keep freed memory for later tensors, from now until the process ends.

    Otherwise glibc gives every large tensor that is freed back to the kernel, and each forward pass on the CPU takes
    its memory anew, page by page. The process then stays as large as it ever was, so this is for a process of our
    own, not for a caller's. Only the main thread's tensors stay: other threads have heaps too small for them.

    Args:
        environment: the environment variables; the user's own choice of an allocator, or of its settings, stands.

    Returns:
        Whether it does. False too where the C library is not glibc: musl, macOS, Windows.

    Example:
        >>> keep_freed_memory({"MALLOC_TRIM_THRESHOLD_": "131072"})
        False
    """
    if _chosen(environment) or not _is_glibc():
        return False
    library = ctypes.CDLL(None)
    return all([library.mallopt(parameter, value) == 1 for parameter, value in _KEEPING.values()])


def _chosen(environment: Mapping[str, str]) -> bool:
    """Whether the environment sets glibc's allocator, or loads another one in its place (jemalloc, tcmalloc)."""
    return (
        any(name.startswith("MALLOC_") for name in environment)
        or "glibc.malloc" in environment.get("GLIBC_TUNABLES", "")
        or "malloc" in environment.get("LD_PRELOAD", "")
    )


def _is_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError, OSError):  # no confstr at all, or not this name
        return False
