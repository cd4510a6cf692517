"""Settings of the whole process that several threads may need at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any


class SharedSwitch:
    """A context manager of a process-wide setting: the first thread that enters makes it, the last one restores it.

    Without the count, the first thread that leaves would restore the setting while others still need it.

    Args:
        setting: makes the context manager that changes the setting; entered and left by any thread.

    Example:
        >>> import contextlib
        >>> @contextlib.contextmanager
        ... def setting():
        ...     print("on")
        ...     yield
        ...     print("off")
        >>> switch = SharedSwitch(setting)
        >>> with switch, switch:
        ...     pass
        on
        off
    """

    def __init__(self, setting: Callable[[], AbstractContextManager[Any]]) -> None:
        self._setting = setting
        self._lock = threading.Lock()
        self._inside = 0
        self._entered: AbstractContextManager[Any] | None = None

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._entered = self._setting()
                self._entered.__enter__()
            self._inside += 1

    def __exit__(self, *_exception: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._entered is not None:
                self._entered.__exit__(None, None, None)
                self._entered = None
