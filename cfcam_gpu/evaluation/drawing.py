"""Figures of a summary: curves, bars with intervals, and heatmaps by method. They need matplotlib (extra `plots`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cfcam_gpu.evaluation.axes import curve_axis
from cfcam_gpu.evaluation.gallery import Picture
from cfcam_gpu.evaluation.summary import Summary
from cfcam_gpu.evaluation.tables import (
    DIRECTIONS,
    MARKS,
    VERDICTS,
    scalars,
    title,
    verdict,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Most methods in a figure.
_MOST_METHODS = 12

#: Okabe and Ito's colours, which all kinds of colour vision tell apart; without the yellow, which is hard to see
#: on white, and the black, which is on a dark ground.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_STYLES = ("-", "--", ":")

#: Colours of the bars by verdict, and of the baseline's own bar. `MARKS` say the same without colour.
_BAR_COLOURS = {"better": "#0072B2", "worse": "#D55E00", "differs": "#CC79A7", None: "#B4B8C0"}
_BASELINE_COLOUR = "#737A87"

#: Keyword arguments of a line.
_Look = dict[str, Any]


def _theme(ink: str, ground: str) -> dict[str, str]:
    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    return dict.fromkeys(inked, ink) | dict.fromkeys(("figure.facecolor", "axes.facecolor"), ground)


#: Theme of the page -> parameters of matplotlib under which its figures are drawn.
THEMES = {"light": _theme("#1b1d22", "#ffffff"), "dark": _theme("#e9ebef", "#1d2026")}


def drawn_methods(summary: Summary) -> list[str]:
    """The methods in the figures: at most twelve, the first ones, and the baseline in any case.

    Example:
        >>> methods = dict.fromkeys([*(f"cfcam {i}" for i in range(20)), "gradcam"])
        >>> names = drawn_methods({"methods": methods, "baseline": "gradcam"})
        >>> len(names), names[0], names[-1]
        (12, 'cfcam 0', 'gradcam')
    """
    names = list(summary["methods"])
    first = names[:_MOST_METHODS]
    baseline = summary["baseline"]
    return first if baseline is None or baseline in first else [*first[:-1], baseline]


def _caption(summary: Summary, text: str) -> str:
    count = len(summary["methods"])
    return f"{text}; {_MOST_METHODS} of {count} methods" if count > _MOST_METHODS else text


def draw_curves(summary: Summary) -> Figure | None:
    """A panel for each curve with a line for each method and bands of the pointwise intervals; None without curves."""
    names = drawn_methods(summary)
    curves = [
        column
        for column in summary["columns"]
        if column["curve"] and any(any(summary["curves"][m][column["name"]]["n"]) for m in names)
    ]
    if not curves:
        return None
    figure, panels = _panels(len(curves), 3, 3.3, 0.32 * ((len(names) + 3) // 4) + 0.5)
    for panel, column in zip(panels, curves, strict=True):
        for name, look in zip(names, _looks(summary, names), strict=True):
            _draw_curve(panel, summary, column["name"], name, look)
        panel.set_title(f"{title(column['name'])}\n{DIRECTIONS[column['better']]}", fontsize=11)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(names)), frameon=False)
    figure.suptitle(_caption(summary, f"Means over images, bands: {summary['level']:.0%} intervals"))
    return figure


def _draw_curve(panel: Axes, summary: Summary, curve: str, method: str, look: _Look) -> None:
    entry = summary["curves"][method][curve]
    mean, low, high = (np.array(entry[key], np.float64) for key in ("mean", "low", "high"))
    label, x = curve_axis(curve, summary["options"], len(mean))
    marker = "o" if len(mean) < 12 else None
    panel.plot(x, mean, label=method, marker=marker, markersize=4, **look)
    panel.fill_between(x, low, high, color=look["color"], alpha=0.13, linewidth=0)
    panel.set_xlabel(label)


def _looks(summary: Summary, names: Sequence[str]) -> list[_Look]:
    """Looks of the lines: the baseline grey, thick and behind the others, which differ by colour, then by dashes."""
    others = [name for name in names if name != summary["baseline"]]
    looks = {
        name: {
            "color": _COLOURS[i % len(_COLOURS)],
            "linestyle": _STYLES[i // len(_COLOURS) % len(_STYLES)],
            "linewidth": 1.8,
        }
        for i, name in enumerate(others)
    }
    grey = {"color": _BASELINE_COLOUR, "linestyle": "-", "linewidth": 3.2, "zorder": 1.9}
    return [looks.get(name, grey) for name in names]


def draw_bars(summary: Summary, columns: Sequence[str] | None = None) -> Figure | None:
    """A panel for each column: means by method with intervals, marked where they differ from the baseline.

    `columns`: names of the columns; None: all in which a bar is to be seen. None where there is nothing to draw.

    Raises:
        ConfigError: an unknown column.
    """
    names = drawn_methods(summary)
    drawn = [c for c in scalars(summary, columns) if columns or _any_bar(summary, c["name"], names)]
    if not drawn or not names:
        return None
    across = 3
    figure, panels = _panels(len(drawn), across, 0.27 * len(names) + 0.95, 1.0)
    for position, (panel, column) in enumerate(zip(panels, drawn, strict=True)):
        _draw_bars(panel, summary, column["name"], names)
        panel.set_title(f"{title(column['name'])}\n{DIRECTIONS[column['better']]}", fontsize=11)
        panel.set_yticks(range(len(names)), names if position % across == 0 else [""] * len(names))
    figure.suptitle(_caption(summary, f"Means over images with {summary['level']:.0%} intervals"))
    if summary["baseline"]:
        _explain_bars(figure, summary["baseline"])
    return figure


def _any_bar(summary: Summary, column: str, names: Sequence[str]) -> bool:
    """Whether one of the methods has a value or an interval that is not 0."""
    entries = [summary["methods"][name][column] for name in names]
    values = np.array([[entry[key] for key in ("mean", "low", "high")] for entry in entries], np.float64)
    return bool(np.nan_to_num(values).any())


def _draw_bars(panel: Axes, summary: Summary, column: str, names: Sequence[str]) -> None:
    entries = [summary["methods"][name][column] for name in names]
    mean, low, high = (np.array([e[key] for e in entries], np.float64) for key in ("mean", "low", "high"))
    verdicts = [verdict(summary, name, column) for name in names]
    colours = [
        _BASELINE_COLOUR if name == summary["baseline"] else _BAR_COLOURS[kind]
        for name, kind in zip(names, verdicts, strict=True)
    ]
    places = np.arange(len(names))
    panel.barh(places, np.nan_to_num(mean), color=colours, height=0.72)
    ink = panel.spines["left"].get_edgecolor()
    panel.hlines(places, low, high, color=ink, linewidth=1.6)
    panel.axvline(0, color=ink, linewidth=0.8)
    panel.set_ylim(len(names) - 0.4, -0.6)
    panel.margins(x=0.14)
    panel.ticklabel_format(axis="x", scilimits=(-3, 4))
    if not np.nan_to_num([mean, low, high]).any():
        panel.set_xlim(0, 1)
    for place, value, end, kind in zip(
        places, mean, np.where(np.isnan(high), mean, high), verdicts, strict=True
    ):
        text = "no value" if np.isnan(value) else MARKS[kind]
        at = 0 if np.isnan(end) else max(end, 0)
        panel.annotate(text, (at, place), (4, 0), textcoords="offset points", va="center", fontsize=9)


def _explain_bars(figure: Figure, baseline: str) -> None:
    from matplotlib.patches import Patch

    entries = {
        baseline: _BASELINE_COLOUR,
        **{f"{MARKS[kind]} {words} {baseline}": _BAR_COLOURS[kind] for kind, words in VERDICTS.items()},
        "no clear difference": _BAR_COLOURS[None],
    }
    handles = [Patch(color=colour, label=label) for label, colour in entries.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)


def _panels(count: int, across: int, height: float, extra: float) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels, `across` in a row.

    `height` of a panel and `extra` height of the figure, for titles and a legend, are in inches.
    """
    from matplotlib.figure import Figure

    columns = min(across, count)
    rows = -(-count // columns)
    figure = Figure((max(4.0 * columns, 7.5), height * rows + extra), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in panels[count:]:
        panel.set_axis_off()
    for panel in panels[:count]:
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=10)
    return figure, panels[:count]


def draw_gallery(summary: Summary, rows: Sequence[Sequence[Picture]]) -> Figure | None:
    """A row for each image, with the image and the heatmaps by method over it; None without rows.

    `rows` are those of `gallery` for `drawn_methods`.
    """
    from matplotlib.figure import Figure

    if not rows:
        return None
    titles = ["photo", *drawn_methods(summary)]
    figure = Figure((1.55 * len(titles), 1.95 * len(rows) + 0.6), layout="constrained")
    panels = figure.subplots(len(rows), len(titles), squeeze=False)
    for line, pictures in zip(panels, rows, strict=True):
        for panel, picture in zip(line, pictures, strict=True):
            _draw_picture(panel, picture)
    for panel, name in zip(panels[0], titles, strict=True):
        panel.set_title(name, fontsize=11)
    figure.suptitle(_caption(summary, "Maps by method, each divided by its own maximum"))
    return figure


def _draw_picture(panel: Axes, picture: Picture) -> None:
    panel.set_xticks([])
    panel.set_yticks([])
    panel.spines[:].set_visible(False)
    panel.set_xlabel(picture.caption, fontsize=9)
    ground = panel.get_facecolor()
    if picture.pixels is not None:
        panel.imshow(picture.pixels, interpolation="bilinear")
    else:
        panel.patch.set_facecolor(panel.title.get_color())
        panel.patch.set_alpha(0.1)
        panel.set_box_aspect(1)
    box = {"facecolor": ground, "edgecolor": "none", "pad": 2} if picture.note else None
    panel.text(
        0.5, 0.5, picture.note, transform=panel.transAxes, ha="center", va="center", fontsize=9,
        wrap=True, bbox=box,
    )  # fmt: skip
