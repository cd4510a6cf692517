"""Who follows a run, and how a signal ends it."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cfcam_gpu.dataset.store.schema import Row

log = logging.getLogger("cfcam_gpu")


@dataclass
class Tally:
    """Counts of samples: explained, failed, and blank among the explained."""

    ok: int = 0
    skipped: int = 0
    blank: int = 0

    def add(self, row: Row) -> None:
        self.ok += row["status"] == "ok"
        self.skipped += row["status"] != "ok"
        self.blank += bool(row.get("blank")) and row["status"] == "ok"


def counted(count: int, noun: str, rest: str = "") -> str:
    """`1 sample is`, `2 samples are`, and the rest of the sentence."""
    return f"{count} {noun}{' is' if count == 1 else 's are'}{rest}"


class Observer:
    """Follows a run; the methods of this one log what is noteworthy."""

    def begin(self, total: int, done: Tally) -> None:
        """The run has `total` samples, of which `done` were done before."""

    def row(self, row: Row) -> None:
        """A sample is done; its row is stored with its part."""

    def tick(self) -> None:
        """Called often, also while nothing is done."""

    def note(self, line: str) -> None:
        log.warning(line)


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM ended the run; finished parts are stored."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)


@contextmanager
def watched_signals() -> Iterator[Callable[[], int | None]]:
    """The number of SIGINT or SIGTERM once one has come; the next one acts at once, as without this."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    seen: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def handle(number: int, frame: object) -> None:
        seen.append(number)
        restore()

    for number in before:
        signal.signal(number, handle)
    try:
        yield lambda: seen[0] if seen else None
    finally:
        restore()
