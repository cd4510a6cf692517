"""What the command prints: tables, JSON, the progress of a run."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import islice
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from cfcam_gpu.dataset.execution.observer import Observer, Tally
from cfcam_gpu.dataset.run import RunSummary
from cfcam_gpu.dataset.sources.sample import split_uri
from cfcam_gpu.dataset.store.results import Results
from cfcam_gpu.dataset.store.schema import COLUMNS, ColumnName, Row
from cfcam_gpu.methods import METHODS

#: With more rows than this only the blank ones are listed.
MOST_ROWS = 50

#: With more samples than the first, --json lists only blank and failed ones, up to the second.
MOST_IN_JSON, MOST_PROBLEMS = 1000, 100

#: Seconds between two lines of progress where there is no terminal.
LINE_EVERY = 30.0


def printable(value: object) -> str:
    """Text that any terminal takes: bytes of a file's name that are not UTF-8 come out as escapes."""
    return str(value).encode("utf-8", "backslashreplace").decode()


def say(line: str) -> None:
    """One line on stderr."""
    typer.echo(printable(line), err=True)


def print_json(content: dict[str, Any]) -> None:
    typer.echo(json.dumps(content, indent=2, allow_nan=False))


def print_table(columns: dict[str, Any], rows: Iterable[tuple[str, ...]]) -> None:
    """`columns`: heading -> alignment."""
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 120)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading, justify in columns.items():
        table.add_column(heading, justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console.print(table)


@contextmanager
def picture_progress() -> Iterator[Callable[[int, int], None]]:
    """A function to call with (pictures made, pictures in all), which draws a bar on a terminal's stderr."""
    console = Console(stderr=True)
    columns = TextColumn("pictures"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("")
        yield lambda done, total: bar.update(task, completed=done, total=total)


def place(row: Row) -> str:
    """Where a sample lies, for people: a file below the current folder without the path to that."""
    scheme, parts = split_uri(row["uri"])
    if scheme != "file":
        return str(row["uri"])
    relative = os.path.relpath(parts[0])
    return parts[0] if relative.startswith("..") else relative


class Follower(Observer):
    """Shows a run on stderr: a bar on a terminal, else a line now and then; names what fails.

    Args:
        doing: what stands before the bar.
    """

    def __init__(self, doing: str = "explaining") -> None:
        self.console = Console(stderr=True)
        self.tally = Tally()
        self.total = self.before = self.now = 0
        self.start = self.last_line = time.monotonic()
        self.bar = Progress(
            TextColumn(doing),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}, {task.fields[errors]} errors,"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self.console,
            disable=not self.console.is_terminal,
        )

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()

    def begin(self, total: int, done: Tally) -> None:
        self.total, self.tally, self.before = total, done, done.ok + done.skipped
        self.start = self.last_line = time.monotonic()
        if self.before:
            failed = f", {done.skipped} failed (--retry-failed redoes these)" if done.skipped else ""
            self.note(f"{self.before} of {total} samples were done before{failed}")
        self.bar.start()
        self.task = self.bar.add_task(
            "", total=total, completed=self.before, rate=self.rate(), errors=done.skipped
        )

    def row(self, row: Row) -> None:
        self.now += 1
        self.tally.add(row)
        if row["status"] != "ok":
            self.note(f"skipped {place(row)}: {row['message']}")
        self.bar.update(self.task, advance=1, rate=self.rate(), errors=self.tally.skipped)

    def tick(self) -> None:
        if self.console.is_terminal or time.monotonic() - self.last_line < LINE_EVERY:
            return
        self.last_line = time.monotonic()
        done = self.before + self.now
        self.note(
            f"{done} of {self.total} samples, {self.rate()}, {self.tally.skipped} errors, {self._left(done)}"
        )

    def _left(self, done: int) -> str:
        if not self.now:
            return "time left not known yet"
        seconds = (time.monotonic() - self.start) / self.now * (self.total - done)
        return f"about {timedelta(seconds=round(seconds))} left"

    def note(self, line: str) -> None:
        self.console.print(Text(printable(line)), soft_wrap=True)

    def rate(self) -> str:
        return f"{self.now / max(time.monotonic() - self.start, 1e-9):.1f} images/s"


class Outcome:
    """What the command says at the end of a run.

    Args:
        kind: heading of the last column and key of the files; `files` gives a row's, below the output folder.
        name: what a row is called.
    """

    def __init__(
        self,
        summary: RunSummary,
        results: Results,
        kind: str = "overlay",
        files: Callable[[Row], dict[str, str]] | None = None,
        name: Callable[[Row], str] = place,
    ) -> None:
        self.summary = summary
        self.results = results.only(summary.parts)
        self.kind = kind
        self.files = files or (lambda row: {} if row["overlay"] is None else {"overlay": row["overlay"]})
        self.name = name

    def as_json(self) -> dict[str, Any]:
        summary = self.summary
        few = summary.total <= MOST_IN_JSON
        rows = (row for row in self._rows() if few or row["status"] != "ok" or row["blank"])
        most = MOST_IN_JSON if few else MOST_PROBLEMS
        return {
            "out": str(summary.out),
            "counts": dataclasses.asdict(summary.tally),
            "samples": summary.total,
            "done_before": summary.before,
            "others_left": summary.others_left,
            "seconds": round(summary.seconds, 3),
            "images": [self._entry(row) for row in islice(rows, most)],
        }

    def print(self, show_predicted: bool = False) -> None:
        summary, tally = self.summary, self.summary.tally
        few = summary.total <= MOST_ROWS
        clustered = METHODS[self.results.run["fingerprint"].get("method", "cfcam")].is_cfcam
        left_out = (set() if show_predicted else {"predicted"}) | (set() if clustered else _OF_CLUSTERS)
        columns = [c for c in _COLUMNS if c[0] not in left_out]
        shown = (row for row in self._rows() if row["status"] == "ok" and (few or row["blank"]))
        table = [
            (self.name(row), *(show(row) for _, _, show in columns), self.files(row).get(self.kind, ""))
            for row in islice(shown, MOST_ROWS)
        ]
        pictures = self.results.run["fingerprint"]["overlays"]["kind"] != "none"
        headings = {"file": "left"} | {heading: justify for heading, justify, _ in columns}
        if table and pictures:
            print_table({**headings, self.kind: "left"}, table)
        elif table:
            print_table(headings, [line[:-1] for line in table])
        before = f" ({summary.before} of them before)" if summary.before else ""
        typer.echo(
            f"explained {tally.ok} of {summary.total} images{before} in {summary.seconds:.1f} s "
            f"({summary.now / summary.seconds:.1f} images/s), {tally.blank} blank, {tally.skipped} skipped; "
            f"{'pictures' if pictures else 'results'} in {printable(summary.out)}"
        )

    def _rows(self) -> Iterator[Row]:
        return self.results.rows([name for name in COLUMNS if name != "grid"])

    def _entry(self, row: Row) -> dict[str, Any]:
        files = {kind: str(self.summary.out / file) for kind, file in self.files(row).items()}
        return {
            "file": self.name(row),
            **{key: row[column] for key, column in _KEYS.items()},
            "outputs": files,
        }


#: Key of an image in --json -> the column it comes from.
_KEYS: dict[str, ColumnName] = {
    "sample_id": "sample_id", "status": "status", "stage": "stage", "error": "message",
    "error_type": "error_type", "label": "label", "class_index": "target", "class_name": "target_name",
    "probability": "target_prob", "predicted_index": "pred", "predicted_name": "pred_name",
    "predicted_probability": "prob", "n_clusters": "n_clusters", "noise_fraction": "noise_fraction",
    "blank": "blank",
}  # fmt: skip


def share(value: float | None) -> str:
    """A share from 0 to 1 as a percentage."""
    if value is None:
        return ""
    return "<0.1%" if 0 < value < 0.0005 else f"{value:.1%}"


#: Columns that only CF-CAM fills.
_OF_CLUSTERS = {"clusters", "noise"}

#: Heading, alignment and text of the result table's columns between the file and the picture.
_COLUMNS: list[tuple[str, str, Callable[[Row], str]]] = [
    ("class", "left", lambda row: row["target_name"] or ""),
    ("probability", "right", lambda row: share(row["target_prob"])),
    ("predicted", "left", lambda row: row["pred_name"] or ""),
    ("clusters", "right", lambda row: str(row["n_clusters"])),
    ("noise", "right", lambda row: share(row["noise_fraction"])),
    ("blank", "left", lambda row: "yes" if row["blank"] else "no"),
]
