"""What Ctrl-C does while the command starts. Imports almost nothing, so that it is in force at once."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM

#: What is called before a process ends without Python's own exit functions.
last_steps: list[Callable[[], None]] = []


def _exit(_number: int, _frame: FrameType | None) -> None:
    os.write(2, b"interrupted\n")
    _leave(INTERRUPTED)


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


def leave_interrupted(status: object) -> None:
    """Ends the process at once if this is the exit status of one that a signal ended.

    All that the command opened is closed by then. Python would first take PyTorch apart, for a second or more.
    """
    if status in (INTERRUPTED, TERMINATED):
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        _leave(int(str(status)))


def _leave(status: int) -> NoReturn:
    for step in last_steps:
        step()
    os._exit(status)
