"""What Ctrl-C does while the command starts. Imports almost nothing, so that it is in force at once."""

from __future__ import annotations

import os
import signal
from types import FrameType

INTERRUPTED = 128 + signal.SIGINT


def _exit(_number: int, _frame: FrameType | None) -> None:
    os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)


def end_at_once() -> None:
    """From now on Ctrl-C prints one line and ends the process.

    It raises no exception: inside an import that could be swallowed, or come out as another one.
    """
    signal.signal(signal.SIGINT, _exit)


def raise_again() -> None:
    """From now on Ctrl-C raises KeyboardInterrupt, so that files are closed and unfinished ones removed.

    A command calls this after its imports, before its work. Does nothing unless `end_at_once` was called before.
    """
    if signal.getsignal(signal.SIGINT) is _exit:
        signal.signal(signal.SIGINT, signal.default_int_handler)
