"""Settings of the whole process that several threads may need at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from cfcam_gpu._utils.undo import Undo


class SharedSwitch:
    """A process-wide setting: the first thread that needs it makes it, the last one restores it.

    Without the holders, the first thread that leaves would restore the setting while others still need
    it. A restoration that an interrupt prevents is made up for when the next holder leaves.

    Args:
        setting: makes the context manager that changes the setting; entered and left by any thread.

    Example:
        >>> @contextmanager
        ... def setting():
        ...     print("on")
        ...     yield
        ...     print("off")
        >>> switch = SharedSwitch(setting)
        >>> with switch.on(), switch.on():
        ...     pass
        on
        off
    """

    def __init__(self, setting: Callable[[], AbstractContextManager[Any]]) -> None:
        self._setting = setting
        self._lock = threading.Lock()
        self._holders: set[object] = set()
        self._entered: AbstractContextManager[Any] | None = None

    @contextmanager
    def on(self) -> Iterator[None]:
        """Within it the setting is made."""
        undo = Undo()
        try:
            self.hold(undo)
            yield
        finally:
            undo.run()

    def hold(self, undo: Undo) -> None:
        """Make the setting until `undo` runs."""
        holder = object()
        undo.add_last(self._restore)
        undo.add(self._holders.discard, holder)
        with self._lock:
            self._holders.add(holder)
            if self._entered is None:
                entered = self._setting()
                entered.__enter__()
                self._entered = entered

    def _restore(self) -> None:
        """Restores the setting where nobody holds it."""
        with self._lock:
            if not self._holders and self._entered is not None:
                self._entered.__exit__(None, None, None)
                self._entered = None
