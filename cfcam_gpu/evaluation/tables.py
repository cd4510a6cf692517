"""The summary's numbers as text: titles, intervals, marks, and a table in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cfcam_gpu.errors import ConfigError

Summary = Mapping[str, Any]

#: Which way is better, for the eye and in words.
ARROWS = {"higher": "↑", "lower": "↓", "": ""}
DIRECTIONS = {"higher": "higher is better", "lower": "lower is better", "": "neither side is better"}

#: Correlation of the maps of two classes from which they are called the same.
SAME = 0.99

#: Verdicts of the paired differences, for the eye and in words before the baseline's name.
MARKS = {"better": "▲", "worse": "▼", "differs": "◆", None: ""}
VERDICTS = {"better": "better than", "worse": "worse than", "differs": "different from"}

#: Words of column names that are written otherwise.
WORDS = {word.lower(): word for word in ("AUC", "SSIM", "MSE", "IoU", "ROAD")}


def title(name: str) -> str:
    """A column's name for people: `deletion_black_auc` is deletion black AUC."""
    return " ".join(WORDS.get(word, word) for word in name.removesuffix("_curve").split("_"))


def number(value: float | None, sign: bool = False) -> str:
    """Three decimals, or three digits where these say nothing; a dash where there is no value."""
    if value is None:
        return "–"  # noqa: RUF001
    plain = value == 0 or 0.0005 <= abs(value) < 1000
    text = f"{value:{'+' if sign else ''}{'.3f' if plain else '.2e'}}"
    return text.replace("-", "−")  # noqa: RUF001


def interval(entry: Summary, sign: bool = False) -> str:
    """`[low, high]`, or nothing where there is none."""
    if entry["low"] is None:
        return ""
    return f"[{number(entry['low'], sign)}, {number(entry['high'], sign)}]"


def scalars(summary: Summary, columns: Sequence[str] | None = None) -> list[Summary]:
    """The summary's columns that are no curves: all, or those named, in that order.

    Raises:
        ConfigError: a name that is not among them.
    """
    known = {column["name"]: column for column in summary["columns"] if not column["curve"]}
    for name in columns or ():
        if name not in known:
            raise ConfigError(f"unknown column {name!r}; choose from: {', '.join(known)}")
    return [known[name] for name in (known if columns is None else columns)]


def verdict(summary: Summary, method: str, column: str) -> str | None:
    """A key of `MARKS`; None for the baseline and where nothing was compared."""
    return summary["paired"].get(method, {}).get(column, {}).get("verdict")


def has_values(summary: Summary, column: str) -> bool:
    """Whether any method has a value in the column."""
    return any(entries[column]["n"] for entries in summary["methods"].values())


def same_for_every_class(summary: Summary) -> list[str]:
    """A sentence for each method whose maps, as `class_sensitivity` found, do not depend on the class."""
    found = []
    for method, entries in summary["methods"].items():
        mean = entries.get("similarity_least", {}).get("mean")
        if mean is not None and mean >= SAME:
            found.append(
                f"{method} shows the same map for every class (correlation {mean:.2f} between the likeliest and "
                "the least likely): that it holds still under noise is no merit."
            )
    return found


def legend(summary: Summary) -> str:
    """How to read the numbers, in one line."""
    images = "1 image" if summary["images"] == 1 else f"{summary['images']:,} images"
    parts = [
        f"Means over {images} with {summary['level']:.0%} bootstrap intervals",
        "↑ higher is better, ↓ lower is better",
    ]
    if summary["paired"]:
        parts.append(
            f"▲ better and ▼ worse than {summary['baseline']} on the same images, ◆ different: the interval "
            "of the paired difference excludes 0"
        )
    return "; ".join(parts) + "."
