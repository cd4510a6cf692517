"""The evaluation's page: tables with intervals, plots, maps, definitions, what ran and what failed."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from PIL import Image

from cfcam_gpu.dataset.store.atomic_files import os_reason, write_atomically
from cfcam_gpu.errors import InputError
from cfcam_gpu.evaluation.axes import metric_of
from cfcam_gpu.evaluation.tables import (
    ARROWS,
    DIRECTIONS,
    MARKS,
    VERDICTS,
    Summary,
    has_values,
    interval,
    legend,
    number,
    same_for_every_class,
    scalars,
    title,
    verdict,
)
from cfcam_gpu.html.render import SHARED, explained, facts, page, run_sections
from cfcam_gpu.methods import METHODS
from cfcam_gpu.metrics.registry import METRICS

#: Below this many images percentile intervals are too narrow.
FEW = 30

#: The pictures: file, heading, and what stands in for them where they cannot be seen.
PLOTS = (
    (
        "bars",
        "Means by metric",
        "Bars of the means with intervals for each metric; the tables hold the numbers",
    ),
    ("curves", "Curves", "Curves by method with bands of their intervals; summary.json holds the numbers"),
    ("grid", "Maps by method", "Rows of a photo and its heatmaps, one column for each method"),
)


@dataclass(frozen=True)
class Cell:
    """A number in a table; `value` is what it is sorted by, None comes last; `kind` is a key of `MARKS`."""

    value: float | None
    text: str
    minor: str = ""
    mark: str = ""
    kind: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class Head:
    """A column's heading, with the metric it stands under."""

    group: str
    name: str
    arrow: str
    about: str


def write_page(out: Path) -> Path:
    """Writes `out/report.html` from `summary.json`, `evaluation.json` and `plots/*.png` in `out`.

    The page asks nothing of the network and of no other file. Plots that were not made are left out.

    Raises:
        InputError: no summary there, or files that cannot be read or written.
    """
    summary, run = _read(out / "summary.json"), _read(out / "evaluation.json")
    path = out / "report.html"
    try:
        write_atomically(
            path, render(f"CF-CAM evaluation: {out.resolve().name}", summary, run, out / "plots").encode()
        )
    except OSError as error:
        raise InputError(f"cannot write the page {path}: {os_reason(error)}") from error
    return path


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{path.parent} holds no {path.name}; let cfcam evaluate … --out {path.parent} finish"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); evaluate again with --overwrite") from error
    return dict(content)


def render(name: str, summary: Summary, run: dict[str, Any], plots: Path) -> str:
    """The whole page; everything that is not this package's own text is escaped."""
    columns = [column for column in scalars(summary) if has_values(summary, column["name"])]
    heads = [_head(column) for column in columns]
    cost = (
        [Head("cost", "images/s", "↑", "Images per second, measured in this run")] if summary["cost"] else []
    )
    return page(
        "cfcam_gpu.evaluation",
        "evaluation",
        [(SHARED, "theme.js"), ("cfcam_gpu.evaluation", "sorting.js")],
        title=name,
        model=explained(run),
        stats=list(_stats(summary)),
        notes=list(_notes(summary)),
        legend=legend(summary),
        tables=[
            ("Means", "means", _spans(heads + cost), heads + cost, list(_means(summary, columns))),
            *_against(summary, heads, columns),
        ],
        baseline=summary["baseline"],
        plots=list(_pictures(plots)),
        metrics=list(_metrics(summary)),
        methods=list(_methods(summary)),
        failures=summary["failures"],
        facts=list(facts(run_sections(run) | {"Bootstrap": _bootstrap(summary)})),
    )


def _stats(summary: Summary) -> Iterator[tuple[str, str]]:
    for count, one in (
        (summary["images"], "image"),
        (summary["failed"], "failed image"),
        (len(summary["methods"]), "method"),
    ):
        if count or one == "image":
            yield f"{count:,}", one if count == 1 else f"{one}s"


def _notes(summary: Summary) -> Iterator[str]:
    """What to know before the numbers are believed."""
    if 0 < summary["images"] < FEW:
        yield (
            f"With fewer than {FEW} images bootstrap intervals are too narrow: take what follows as a "
            "first impression."
        )
    if summary["failed"]:
        yield f"Failed images: {summary['failed']:,}. They are in none of the means; the errors are listed below."
    for method, entries in summary["methods"].items():
        if not any(entry["n"] for entry in entries.values()):
            yield f"{method} explained no image, so there is nothing to say about it."
    yield from same_for_every_class(summary)
    if not summary["paired"]:
        yield "There is no baseline among the methods, or nothing beside it, so no differences are shown."


def _head(column: Summary) -> Head:
    about = f"{column['about'].rstrip('.')}; {DIRECTIONS[column['better']]}"
    return Head(
        title(metric_of(column["name"]) or "maps"), title(column["name"]), ARROWS[column["better"]], about
    )


def _spans(heads: Sequence[Head]) -> list[tuple[str, int]]:
    return [(name, len(list(members))) for name, members in groupby(heads, key=lambda head: head.group)]


def _means(summary: Summary, columns: Sequence[Summary]) -> Iterator[tuple[str, list[Cell]]]:
    for method, entries in summary["methods"].items():
        cells = [
            _cell(summary, entries[column["name"]], "mean", verdict(summary, method, column["name"]))
            for column in columns
        ]
        yield method, [*cells, *_speed(summary, method)]


def _speed(summary: Summary, method: str) -> Iterator[Cell]:
    if not summary["cost"]:
        return
    speed, base = summary["cost"].get(method), summary["cost"].get(summary["baseline"])
    minor = f"{speed / base:.2f} × {summary['baseline']}" if speed and base else ""  # noqa: RUF001
    yield Cell(speed, number(None) if speed is None else f"{speed:.3g}", minor)


def _against(
    summary: Summary, heads: Sequence[Head], columns: Sequence[Summary]
) -> Iterator[tuple[Any, ...]]:
    if not summary["paired"]:
        return
    rows = [
        (
            method,
            [
                _cell(summary, entries[c["name"]], "difference", entries[c["name"]]["verdict"])
                for c in columns
            ],
        )
        for method, entries in summary["paired"].items()
    ]
    yield f"Difference to {summary['baseline']} on the same images", "differences", _spans(heads), heads, rows


def _cell(summary: Summary, entry: Summary, key: str, found: str | None) -> Cell:
    signed = key == "difference"
    fewer = f"n = {entry['n']:,}" if entry["n"] != summary["images"] else ""
    minor = " ".join(part for part in (interval(entry, signed), fewer) if part)
    words = f"{VERDICTS[found]} {summary['baseline']}" if found else ""
    return Cell(entry[key], number(entry[key], signed), minor, MARKS[found], found or "", words)


def _pictures(folder: Path) -> Iterator[dict[str, Any]]:
    for name, heading, text in PLOTS:
        try:
            content = (folder / f"{name}.png").read_bytes()
        except FileNotFoundError:
            continue
        with Image.open(io.BytesIO(content)) as picture:
            width, height = picture.size
        data = base64.b64encode(content).decode()
        yield {"id": name, "heading": heading, "text": text, "data": data, "width": width, "height": height}


def _metrics(summary: Summary) -> Iterator[tuple[str, str, list[tuple[str, str]]]]:
    """(metric, source, [(column, what it is)]) of the summary's columns."""
    for name, members in groupby(summary["columns"], key=lambda column: metric_of(column["name"])):
        columns = [(c["name"], f"{c['about'].rstrip('.')}; {DIRECTIONS[c['better']]}.") for c in members]
        yield name or "maps", METRICS[name].source if name else "", columns


def _methods(summary: Summary) -> Iterator[tuple[str, str, str]]:
    """(method, what it does, source)."""
    for text in summary["methods"]:
        name, _, preset = text.partition(":")
        method = METHODS.get(name)
        about = (method.about if method else "", f"preset {preset}" if preset else "")
        yield text, ", ".join(filter(None, about)), method.source if method else ""


def _bootstrap(summary: Summary) -> dict[str, Any]:
    return {key: summary[key] for key in ("baseline", "level", "resamples", "seed")}
