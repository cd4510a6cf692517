"""Figures of a summary: curves, bars with intervals, and maps by method. matplotlib must be there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cfcam_gpu.evaluation.axes import axis
from cfcam_gpu.evaluation.gallery import Cell
from cfcam_gpu.evaluation.tables import (
    DIRECTIONS,
    MARKS,
    VERDICTS,
    Summary,
    has_values,
    scalars,
    title,
    verdict,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Methods that fit into a picture.
METHODS = 12

#: Okabe and Ito's colours for all kinds of colour vision, without the yellow that white swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
STYLES = ("-", "--", ":")

#: Bars by verdict against the baseline, whose own is the darker grey; `MARKS` say the same without colour.
BARS = {"better": "#0072B2", "worse": "#D55E00", "differs": "#CC79A7", None: "#B4B8C0"}
BASELINE = "#737A87"

Look = dict[str, Any]


def shown(summary: Summary) -> list[str]:
    """The methods of the pictures: the first, and the baseline in any case."""
    names = list(summary["methods"])
    first = names[:METHODS]
    baseline = summary["baseline"]
    return first if baseline is None or baseline in first else [*first[:-1], baseline]


def _caption(summary: Summary, text: str) -> str:
    count = len(summary["methods"])
    return f"{text}; {METHODS} of {count} methods" if count > METHODS else text


def draw_curves(summary: Summary) -> Figure | None:
    """A panel for each curve, a line with its pointwise intervals for each method."""
    names = shown(summary)
    curves = [
        column
        for column in summary["columns"]
        if column["curve"] and any(any(summary["curves"][m][column["name"]]["n"]) for m in names)
    ]
    if not curves:
        return None
    figure, panels = _panels(len(curves), 3, 3.1, 0.32 * ((len(names) + 3) // 4) + 0.5)
    for panel, column in zip(panels, curves, strict=True):
        for name, look in zip(names, _looks(summary, names), strict=True):
            _draw_curve(panel, summary, column["name"], name, look)
        panel.set_title(f"{title(column['name'])}: {DIRECTIONS[column['better']]}", fontsize=11)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(names)), frameon=False)
    figure.suptitle(_caption(summary, f"Means over images, bands: {summary['level']:.0%} intervals"))
    return figure


def _draw_curve(panel: Axes, summary: Summary, curve: str, method: str, look: Look) -> None:
    entry = summary["curves"][method][curve]
    mean, low, high = (np.array(entry[key], np.float64) for key in ("mean", "low", "high"))
    label, x = axis(curve, summary["options"], len(mean))
    marker = "o" if len(mean) < 12 else None
    panel.plot(x, mean, label=method, marker=marker, markersize=4, **look)
    panel.fill_between(x, low, high, color=look["color"], alpha=0.13, linewidth=0)
    panel.set_xlabel(label)


def _looks(summary: Summary, names: Sequence[str]) -> list[Look]:
    """Line styles: the baseline grey, thick and below, the others by colour, and by dashes where these run out."""
    others = [name for name in names if name != summary["baseline"]]
    looks = {
        name: {
            "color": COLOURS[i % len(COLOURS)],
            "linestyle": STYLES[i // len(COLOURS) % len(STYLES)],
            "linewidth": 1.8,
        }
        for i, name in enumerate(others)
    }
    grey = {"color": BASELINE, "linestyle": "-", "linewidth": 3.2, "zorder": 1.9}
    return [looks.get(name, grey) for name in names]


def draw_bars(summary: Summary, columns: Sequence[str] | None = None) -> Figure | None:
    """A panel for each column: means by method with intervals, marked where they differ from the baseline."""
    names = shown(summary)
    wanted = [c for c in scalars(summary, columns) if columns or has_values(summary, c["name"])]
    if not wanted or not names:
        return None
    across = 3
    figure, panels = _panels(len(wanted), across, 0.27 * len(names) + 0.75, 1.0)
    for position, (panel, column) in enumerate(zip(panels, wanted, strict=True)):
        _draw_bars(panel, summary, column["name"], names)
        panel.set_title(f"{title(column['name'])}: {DIRECTIONS[column['better']]}", fontsize=11)
        panel.set_yticks(range(len(names)), names if position % across == 0 else [""] * len(names))
    figure.suptitle(_caption(summary, f"Means over images with {summary['level']:.0%} intervals"))
    if summary["baseline"]:
        _explain_bars(figure, summary["baseline"])
    return figure


def _draw_bars(panel: Axes, summary: Summary, column: str, names: Sequence[str]) -> None:
    entries = [summary["methods"][name][column] for name in names]
    mean, low, high = (np.array([e[key] for e in entries], np.float64) for key in ("mean", "low", "high"))
    verdicts = [verdict(summary, name, column) for name in names]
    colours = [
        BASELINE if name == summary["baseline"] else BARS[found]
        for name, found in zip(names, verdicts, strict=True)
    ]
    places = np.arange(len(names))
    panel.barh(places, np.nan_to_num(mean), color=colours, height=0.72)
    panel.hlines(places, low, high, color="#1b1d22", linewidth=1.6)
    panel.axvline(0, color="#1b1d22", linewidth=0.8)
    panel.set_ylim(len(names) - 0.4, -0.6)
    panel.margins(x=0.14)
    panel.ticklabel_format(axis="x", scilimits=(-3, 4))
    if not np.nan_to_num([mean, low, high]).any():
        panel.set_xlim(0, 1)
    for place, value, end, found in zip(
        places, mean, np.where(np.isnan(high), mean, high), verdicts, strict=True
    ):
        text = "no value" if np.isnan(value) else MARKS[found]
        at = 0 if np.isnan(end) else max(end, 0)
        panel.annotate(text, (at, place), (4, 0), textcoords="offset points", va="center", fontsize=9)


def _explain_bars(figure: Figure, baseline: str) -> None:
    from matplotlib.patches import Patch

    entries = {
        baseline: BASELINE,
        **{f"{MARKS[found]} {VERDICTS[found]} {baseline}": BARS[found] for found in VERDICTS},
        "no clear difference": BARS[None],
    }
    handles = [Patch(color=colour, label=label) for label, colour in entries.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)


def _panels(count: int, across: int, height: float, extra: float) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels of that height in inches, `across` in a row, and room for a legend."""
    from matplotlib.figure import Figure

    columns = min(across, count)
    rows = -(-count // columns)
    figure = Figure((max(4.0 * columns, 7.5), height * rows + extra), layout="constrained", facecolor="white")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in panels[count:]:
        panel.set_axis_off()
    for panel in panels[:count]:
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=10)
    return figure, panels[:count]


def draw_grid(summary: Summary, rows: Sequence[Sequence[Cell]]) -> Figure | None:
    """Rows of the photo and its maps by method, each map over the photo."""
    from matplotlib.figure import Figure

    if not rows:
        return None
    heads = ["photo", *shown(summary)]
    figure = Figure((1.55 * len(heads), 1.95 * len(rows) + 0.6), layout="constrained", facecolor="white")
    panels = figure.subplots(len(rows), len(heads), squeeze=False)
    for line, cells in zip(panels, rows, strict=True):
        for panel, cell in zip(line, cells, strict=True):
            _draw_cell(panel, cell)
    for panel, head in zip(panels[0], heads, strict=True):
        panel.set_title(head, fontsize=11)
    figure.suptitle(_caption(summary, "Maps by method, each divided by its own maximum"))
    return figure


def _draw_cell(panel: Axes, cell: Cell) -> None:
    panel.set_xticks([])
    panel.set_yticks([])
    panel.spines[:].set_visible(False)
    panel.set_xlabel(cell.caption, fontsize=9)
    if cell.pixels is not None:
        panel.imshow(cell.pixels, interpolation="bilinear")
    else:
        panel.set_facecolor("#e9eae6")
        panel.set_box_aspect(1)
    panel.text(
        0.5, 0.5, cell.note, transform=panel.transAxes, ha="center", va="center", fontsize=9,
        color="#1b1d22", wrap=True, bbox={"facecolor": "white", "edgecolor": "none", "pad": 2} if cell.note else None,
    )  # fmt: skip
