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
from cfcam_gpu.evaluation.drawing import THEMES
from cfcam_gpu.evaluation.plots import plot_file
from cfcam_gpu.evaluation.summary import Summary
from cfcam_gpu.evaluation.tables import (
    ARROWS,
    DIRECTIONS,
    MARKS,
    VERDICTS,
    conclusion,
    has_values,
    interval,
    legend,
    number,
    same_for_every_class,
    scalars,
    speed,
    title,
    verdict,
)
from cfcam_gpu.html.render import SHARED, facts, model_layer_and_method, render_page, run_sections
from cfcam_gpu.methods import METHODS
from cfcam_gpu.metrics import METRICS

#: Below this many images percentile intervals are too narrow.
_FEW = 30

#: The plots: file name, heading, and the text for readers who cannot see them.
_PLOTS = (
    (
        "bars",
        "Means by metric",
        "Bars of the means with intervals for each metric; the tables hold the numbers",
    ),
    ("curves", "Curves", "Curves by method with bands of their intervals; summary.json holds the numbers"),
    ("grid", "Maps by method", "Rows of a photo and its heatmaps, one column for each method"),
)


@dataclass(frozen=True)
class _Cell:
    """A cell of a table.

    Attributes:
        value: the rows are sorted by it; None comes last.
        text: the number in the cell; minor: the small text below it.
        mark: symbol of the verdict; kind: the verdict, a key of `MARKS`; verdict: the verdict in words.
    """

    value: float | None
    text: str
    minor: str = ""
    mark: str = ""
    kind: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class _Heading:
    """The heading of a column; `group` is the metric that it stands under."""

    group: str
    name: str
    arrow: str
    about: str


def write_page(out: Path) -> Path:
    """Writes `out/report.html` from `summary.json`, `evaluation.json` and `plots/*.png` in `out`.

    The page is one file: it loads nothing from the network and no other file. Missing plots are left out.

    Returns:
        The path of the page.

    Raises:
        InputError: there is no summary, or a file cannot be read or written.

    Example:
        >>> import tempfile
        >>> import pyarrow as pa
        >>> from cfcam_gpu.evaluation import summarise
        >>> columns = {"sample_id": ["a"], "status": ["ok"], "method": ["cfcam"], "blank": [False]}
        >>> out = Path(tempfile.mkdtemp())
        >>> _ = (out / "summary.json").write_text(json.dumps(summarise(pa.table(columns), [])))
        >>> _ = (out / "evaluation.json").write_text("{}")
        >>> write_page(out).name
        'report.html'
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
    """The whole page as HTML; all text that comes from the data is escaped.

    `run` is the content of evaluation.json, `plots` the folder of the plots.
    """
    columns = [column for column in scalars(summary) if has_values(summary, column["name"])]
    headings = [_heading(column) for column in columns]
    cost = (
        [_Heading("cost", "images/s", "↑", "Images per second, measured in this run")]
        if summary["cost"]
        else []
    )
    return render_page(
        "cfcam_gpu.evaluation",
        "evaluation",
        [(SHARED, "theme.js"), ("cfcam_gpu.evaluation", "sorting.js")],
        title=name,
        model=model_layer_and_method(run),
        stats=list(_stats(summary)),
        notes=list(_notes(summary)),
        conclusion=conclusion(summary),
        legend=legend(summary),
        tables=[
            ("Means", "means", _spans(headings + cost), headings + cost, list(_means(summary, columns))),
            *_differences(summary, headings, columns),
        ],
        baseline=summary["baseline"],
        plots=list(_plots(plots)),
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
    """What a reader must know before relying on the numbers."""
    if 0 < summary["images"] < _FEW:
        yield (
            f"With fewer than {_FEW} images bootstrap intervals are too narrow: take what follows as a "
            "first impression."
        )
    if summary["failed"]:
        yield f"Failed images: {summary['failed']:,}. They are in none of the means; the errors are listed below."
    for method, entries in summary["methods"].items():
        if not any(entry["n"] for entry in entries.values()):
            yield f"{method} explained no image, so there is nothing to say about it."
    yield from same_for_every_class(summary)
    if not summary["paired"]:
        yield "There is no baseline among the methods, or no other method, so no differences are shown."


def _heading(column: dict[str, Any]) -> _Heading:
    about = f"{column['about'].rstrip('.')}; {DIRECTIONS[column['better']]}"
    return _Heading(
        title(metric_of(column["name"]) or "maps"), title(column["name"]), ARROWS[column["better"]], about
    )


def _spans(headings: Sequence[_Heading]) -> list[tuple[str, int]]:
    """Groups of neighbouring columns with their number of columns."""
    groups = groupby(headings, key=lambda heading: heading.group)
    return [(name, len(list(members))) for name, members in groups]


def _means(summary: Summary, columns: Sequence[dict[str, Any]]) -> Iterator[tuple[str, list[_Cell]]]:
    """(method, cells), a row of the table of means."""
    for method, entries in summary["methods"].items():
        cells = [
            _cell(summary, entries[column["name"]], "mean", verdict(summary, method, column["name"]))
            for column in columns
        ]
        yield method, [*cells, *_speed(summary, method)]


def _speed(summary: Summary, method: str) -> Iterator[_Cell]:
    """The cell of the speed, where speeds were measured."""
    if summary["cost"]:
        yield _Cell(summary["cost"].get(method), *speed(summary, method))


def _differences(
    summary: Summary, headings: Sequence[_Heading], columns: Sequence[dict[str, Any]]
) -> Iterator[tuple[Any, ...]]:
    """The table of the differences to the baseline, where there is one: what the template needs of it."""
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
    yield (
        f"Difference to {summary['baseline']} on the same images",
        "differences",
        _spans(headings),
        headings,
        rows,
    )


def _cell(summary: Summary, entry: Summary, key: str, kind: str | None) -> _Cell:
    signed = key == "difference"
    fewer = f"n = {entry['n']:,}" if entry["n"] != summary["images"] else ""
    minor = " ".join(part for part in (interval(entry, signed=signed), fewer) if part)
    words = f"{VERDICTS[kind]} {summary['baseline']}" if kind else ""
    return _Cell(entry[key], number(entry[key], signed=signed), minor, MARKS[kind], kind or "", words)


def _plots(folder: Path) -> Iterator[dict[str, Any]]:
    """The plots that exist, as base64, with what the template needs of them; in each theme that was drawn."""
    for name, heading, text in _PLOTS:
        themes = {theme: folder / plot_file(name, theme) for theme in THEMES}
        pictures = {theme: _picture(path) for theme, path in themes.items() if path.is_file()}
        if pictures:
            yield {"id": name, "heading": heading, "text": text, "pictures": pictures}


def _picture(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    with Image.open(io.BytesIO(content)) as picture:
        width, height = picture.size
    return {"data": base64.b64encode(content).decode(), "width": width, "height": height}


def _metrics(summary: Summary) -> Iterator[tuple[str, str, list[tuple[str, str]]]]:
    """(metric, source, [(column, description)]) of the summary's columns."""
    for name, members in groupby(summary["columns"], key=lambda column: metric_of(column["name"])):
        columns = [(c["name"], f"{c['about'].rstrip('.')}; {DIRECTIONS[c['better']]}.") for c in members]
        yield name or "maps", METRICS[name].source if name else "", columns


def _methods(summary: Summary) -> Iterator[tuple[str, str, str]]:
    """(method, description, source) of the summary's methods."""
    for text in summary["methods"]:
        name, _, preset = text.partition(":")
        method = METHODS.get(name)
        about = (method.about if method else "", f"preset {preset}" if preset else "")
        yield text, ", ".join(filter(None, about)), method.source if method else ""


def _bootstrap(summary: Summary) -> dict[str, Any]:
    return {key: summary[key] for key in ("baseline", "level", "resamples", "seed")}
