"""What a run shows on stderr while it goes on."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from cfcam_gpu._utils.messages import plural, printable, unknown
from cfcam_gpu._utils.option import comma_separated
from cfcam_gpu._utils.places.schemes import run_url
from cfcam_gpu.cli.options import parse
from cfcam_gpu.cli.printing import say, shown_path
from cfcam_gpu.dataset.execution.observer import Observer, Tally
from cfcam_gpu.dataset.execution.records import JsonLines, Together, make_record
from cfcam_gpu.dataset.options import LOG_FORMATS, RunOptions
from cfcam_gpu.dataset.store.schema import Row
from cfcam_gpu.errors import ConfigError

#: Seconds between two changes of the bar on a terminal.
BAR_EVERY = 0.1

#: From so many steps on, such as passes of the model, it is told how many of them a batch has had.
_MANY_STEPS = 30

#: Seconds between two lines of progress where there is no terminal.
LINE_EVERY = 30.0


@contextmanager
def _picture_progress() -> Iterator[Callable[[int, int], None]]:
    """A function to call with (pictures made, pictures in all), which draws a bar on a terminal's stderr."""
    console = Console(stderr=True)
    columns = TextColumn("pictures"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("")
        yield lambda done, total: bar.update(task, completed=done, total=total)


def write_report_with_progress(out: str | Path, page: Path | None = None) -> str:
    """Writes the report of a run, with a progress bar on a terminal; returns the page's path or URL."""
    from cfcam_gpu.report import write_report

    with _picture_progress() as on_progress:
        written = write_report(out, page, on_progress=on_progress)
    url = run_url(out) if page is None else None
    return str(written) if url is None else f"{url}/{written.name}"


def say_rank(options: RunOptions, out: str | Path) -> None:
    """Tells the rank of a process that shares the output folder with others."""
    if options.world_size > 1:
        say(f"this process is number {options.rank} of {options.world_size} (from 0) that share {out}")


def say_others_left(parts: int) -> None:
    """Tells how many parts other processes have not finished."""
    if parts:
        say(f"{plural(parts, 'part')} of other processes {'is' if parts == 1 else 'are'} not done yet")


@contextmanager
def followed(log_format: str, records: str | None, doing: str = "explaining") -> Iterator[Observer]:
    """What shows a run on stderr and keeps its records.

    Args:
        log_format: one of `LOG_FORMATS`.
        records: `KIND:PLACE`, several with commas between them; None: none.
        doing: what stands before the bar.

    Raises:
        ConfigError: an unknown format or kind.
        MissingPackageError: a package that a record needs is not installed.
    """
    if log_format not in LOG_FORMATS:
        raise ConfigError(unknown("log format", log_format, LOG_FORMATS))
    with ExitStack() as stack:
        observers: list[Observer] = []
        for text in parse("records", comma_separated, records) if records is not None else ():
            record = make_record(text)
            stack.callback(record.close)
            observers.append(record)
        shown = JsonLines(sys.stderr) if log_format == "json" else stack.enter_context(Follower(doing))
        yield Together([shown, *observers]) if observers else shown


class Follower(Observer):
    """Shows a run on stderr: a bar on a terminal, else a line now and then; names what fails.

    Args:
        doing: what stands before the bar.
    """

    def __init__(self, doing: str = "explaining") -> None:
        self.console = Console(stderr=True)
        self.tally = Tally()
        self.total = self.before = self.now = 0
        self.steps = self.steps_before = 0  # of the batch in work, and of the last one
        self.task: TaskID | None = None
        self.start = self.last_line = time.monotonic()
        self.bar = Progress(
            TextColumn(doing),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}, {task.fields[errors]} errors,{task.fields[inside]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self.console,
            disable=not self.console.is_terminal,
        )

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.task is not None:
            self._update_bar()
        self.bar.stop()

    def begin(self, total: int, done: Tally) -> None:
        self.total, self.tally, self.before = total, done, done.ok + done.skipped
        self.start = self.last_line = time.monotonic()
        if self.before:
            failed = f", {done.skipped} failed (--retry-failed redoes these)" if done.skipped else ""
            self.note(f"{self.before} of {total} samples were done before{failed}")
        self.bar.start()
        self.task = self.bar.add_task(
            "", total=total, completed=self.before, rate=self.rate(), errors=done.skipped, inside=""
        )

    def row(self, row: Row) -> None:
        self.now += 1
        self.tally.add(row)
        if row["status"] != "ok":
            self.note(f"skipped {shown_path(row)}: {row['message']}")

    def step(self, steps: int) -> None:
        if steps < self.steps:
            self.steps_before = self.steps
        self.steps = steps

    def tick(self) -> None:
        now = time.monotonic()
        if now - self.last_line < (BAR_EVERY if self.console.is_terminal else LINE_EVERY):
            return
        self.last_line = now
        done = self.before + self.now
        if self.console.is_terminal:
            self._update_bar()
            return
        self.note(
            f"{datetime.now():%Y-%m-%d %H:%M:%S} {done} of {self.total} samples, {self.rate()}, "
            f"{self.tally.skipped} errors,{self._inside()} {self._left(done)}"
        )

    def _update_bar(self) -> None:
        assert self.task is not None
        done = self.before + self.now
        self.bar.update(
            self.task, completed=done, rate=self.rate(), errors=self.tally.skipped, inside=self._inside()
        )

    def _inside(self) -> str:
        """How far the batch in work is, where it takes many steps."""
        if max(self.steps, self.steps_before) < _MANY_STEPS:
            return ""
        of = f" of about {self.steps_before}" if self.steps <= self.steps_before else ""
        return f" step {self.steps}{of} in this batch,"

    def _left(self, done: int) -> str:
        if not self.now:
            return "time left not known yet"
        seconds = (time.monotonic() - self.start) / self.now * (self.total - done)
        return f"about {timedelta(seconds=round(seconds))} left"

    def note(self, line: str) -> None:
        self.console.print(Text(printable(line)), soft_wrap=True)

    def rate(self) -> str:
        return f"{self.now / max(time.monotonic() - self.start, 1e-9):.1f} images/s"
