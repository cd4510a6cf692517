"""Signal handlers that are put back."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: The signals that end a run.
ENDING = (signal.SIGINT, signal.SIGTERM)


def in_main_thread() -> bool:
    """Whether this thread may set signal handlers: Python allows it to the main thread only."""
    return threading.current_thread() is threading.main_thread()


@contextmanager
def restored_handlers() -> Iterator[Callable[[], None]]:
    """On leaving, the handlers of `ENDING` are what they were; calling the value restores them earlier.

    Does nothing outside the main thread.

    Example:
        >>> import signal
        >>> with restored_handlers() as restore:
        ...     _ = signal.signal(signal.SIGTERM, signal.SIG_IGN)
        >>> signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        False
    """
    before = {number: signal.getsignal(number) for number in ENDING}

    def restore() -> None:
        if in_main_thread():
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)

    try:
        yield restore
    finally:
        restore()
