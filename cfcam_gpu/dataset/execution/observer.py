"""Observers, which are told how a run goes; and how SIGINT and SIGTERM end a run."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cfcam_gpu._utils.messages import printable
from cfcam_gpu._utils.signals import ENDING, in_main_thread, restored_handlers
from cfcam_gpu.dataset.store.schema import Row, others_of

log = logging.getLogger("cfcam_gpu")


@dataclass
class Tally:
    """Counts of samples: explained, failed, and blank among the explained.

    Example:
        >>> tally = Tally()
        >>> tally.add({"status": "ok", "blank": True})
        >>> tally.add({"status": "error"})
        >>> tally
        Tally(ok=1, skipped=1, blank=1)
    """

    ok: int = 0
    skipped: int = 0
    blank: int = 0

    def add(self, row: Row) -> None:
        """Counts one sample; it is blank where one of its maps is."""
        if row["status"] != "ok":
            self.skipped += 1
            return
        self.ok += 1
        self.blank += bool(row.get("blank")) or any(other.get("blank") for other in others_of(row))


def counted(count: int, noun: str, rest: str = "") -> str:
    """`1 sample is`, `2 samples are`, and the rest of the sentence.

    Example:
        >>> counted(2, "sample", " left")
        '2 samples are left'
    """
    return f"{count} {noun}{' is' if count == 1 else 's are'}{rest}"


class Observer:
    """Is told how a run goes. Override the methods of interest; this class only logs the notes.

    Example:
        >>> class Names(Observer):
        ...     def row(self, row):
        ...         print(row["sample_id"])
        >>> Names().row({"sample_id": "cat.jpg"})
        cat.jpg
    """

    def begin(self, total: int, done: Tally) -> None:
        """The run starts: it has `total` samples, of which earlier runs did `done`."""

    def row(self, row: Row) -> None:
        """A sample is done. Its row is written ahead, and stored with the rest of its part."""

    def step(self, steps: int) -> None:
        """Called before `tick`: the passes of the model, or other steps, that the batch in work has had so far.

        0 where that is not known.
        """

    def tick(self) -> None:
        """Called several times a second, also while no sample gets done."""

    def end(self) -> None:
        """All samples of this process are done; not called where the run ends by an error or a signal."""

    def note(self, line: str) -> None:
        """Something the user should know, in one line."""
        log.warning("%s", printable(line))


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM, whose number is `number`, ended the run; finished samples are stored."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)

    def __reduce__(self) -> tuple[type[Interrupted], tuple[int]]:
        return type(self), (self.number,)


@contextmanager
def watched_signals() -> Iterator[Callable[[], int | None]]:
    """Gives a function: the number of the SIGINT or SIGTERM that arrived, None before one arrives.

    The first signal is only recorded, so that the caller can end cleanly. It also puts the earlier handlers
    back: a second signal acts at once. Outside the main thread, where Python allows no handlers, signals are
    not watched.

    Example:
        >>> import os, signal
        >>> with watched_signals() as arrived:
        ...     os.kill(os.getpid(), signal.SIGTERM)
        ...     arrived() == signal.SIGTERM
        True
    """
    if not in_main_thread():
        yield lambda: None
        return
    arrived: list[int] = []
    with restored_handlers() as restore:

        def record(number: int, _frame: object) -> None:
            arrived.append(number)
            restore()

        for number in ENDING:
            signal.signal(number, record)
        yield lambda: arrived[0] if arrived else None
