"""The numbers of a summary as text, for the page, the plots and the command: titles, intervals, marks, verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cfcam_gpu.errors import ConfigError

if TYPE_CHECKING:
    from cfcam_gpu.evaluation.summary import Summary

#: Symbols and words for `Column.better`.
ARROWS = {"higher": "↑", "lower": "↓", "": ""}
DIRECTIONS = {"higher": "higher is better", "lower": "lower is better", "": "neither side is better"}

#: Symbols for the verdicts of the paired differences, and the words that stand before the baseline's name.
MARKS = {"better": "▲", "worse": "▼", "differs": "◆", None: ""}
VERDICTS = {"better": "better than", "worse": "worse than", "differs": "different from"}

#: Marks the method with the best mean.
BEST = "★"

#: From this correlation on, the maps of two classes are called the same.
_SAME = 0.99

#: Words of column names that are not written in small letters.
_WORDS = {word.lower(): word for word in ("AUC", "SSIM", "MSE", "IoU", "ROAD")}


def title(column: str) -> str:
    """A column's name as people would write it.

    Example:
        >>> title("deletion_black_auc")
        'deletion black AUC'
    """
    return " ".join(_WORDS.get(word, word) for word in column.removesuffix("_curve").split("_"))


def number(value: float | None, *, signed: bool = False) -> str:
    """A number with three decimals, or with three digits where three decimals say little; a dash for None.

    Example:
        >>> number(0.12345), number(0.1, signed=True), number(12345.0)
        ('0.123', '+0.100', '1.23e+04')
    """
    if value is None:
        return "–"  # noqa: RUF001
    fixed = value == 0 or 0.0005 <= abs(value) < 1000
    text = f"{value:{'+' if signed else ''}{'.3f' if fixed else '.2e'}}"
    return text.replace("-", "−")  # noqa: RUF001


def interval(entry: Summary, *, signed: bool = False) -> str:
    """`[low, high]` of a summary's entry; empty where there is no interval.

    Example:
        >>> interval({"low": 0.25, "high": 0.5})
        '[0.250, 0.500]'
    """
    if entry["low"] is None:
        return ""
    return f"[{number(entry['low'], signed=signed)}, {number(entry['high'], signed=signed)}]"


def scalars(summary: Summary, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The summary's columns that are not curves: all, or those named in `columns`, in that order.

    Raises:
        ConfigError: a name that is not among them.

    Example:
        >>> columns = [{"name": "blank", "curve": False}, {"name": "iou_curve", "curve": True}]
        >>> [column["name"] for column in scalars({"columns": columns})]
        ['blank']
    """
    by_name = {column["name"]: column for column in summary["columns"] if not column["curve"]}
    for name in columns or ():
        if name not in by_name:
            raise ConfigError(f"unknown column {name!r}; choose from: {', '.join(by_name)}")
    return [by_name[name] for name in (by_name if columns is None else columns)]


def has_values(summary: Summary, column: str) -> bool:
    """Whether any method has a value in the column.

    Example:
        >>> has_values({"methods": {"cfcam": {"blank": {"n": 3}}, "gradcam": {"blank": {"n": 0}}}}, "blank")
        True
    """
    return any(entries[column]["n"] for entries in summary["methods"].values())


def verdict(summary: Summary, method: str, column: str) -> str | None:
    """How a method compares with the baseline: a key of `MARKS`; None for the baseline and without a verdict.

    Example:
        >>> verdict({"paired": {"cfcam": {"blank": {"verdict": "better"}}}}, "cfcam", "blank")
        'better'
    """
    entry: Summary = summary["paired"].get(method, {}).get(column, {})
    return entry.get("verdict")


def best_method(summary: Summary, column: str, better: str) -> str | None:
    """The method with the best mean; None where it is not clear.

    It is clear where that method is better than the baseline, or is the baseline and all others are worse.

    Args:
        better: the column's `Column.better`.

    Example:
        >>> methods = {"gradcam": {"blank": {"mean": 0.2}}, "cfcam": {"blank": {"mean": 0.1}}}
        >>> paired = {"cfcam": {"blank": {"verdict": "better"}}}
        >>> best_method({"methods": methods, "paired": paired, "baseline": "gradcam"}, "blank", "lower")
        'cfcam'
    """
    means = {method: entries[column]["mean"] for method, entries in summary["methods"].items()}
    means = {method: mean for method, mean in means.items() if mean is not None}
    if not better or len(means) < 2:
        return None
    best = (max if better == "higher" else min)(means, key=lambda method: means[method])
    verdicts = {method: verdict(summary, method, column) for method in means if method != summary["baseline"]}
    if best == summary["baseline"]:
        return best if set(verdicts.values()) == {"worse"} else None
    return best if verdicts[best] == "better" else None


def speed(summary: Summary, method: str) -> tuple[str, str]:
    """A method's images per second, and how many times the baseline's that is; empty where that is not known.

    Example:
        >>> speed({"cost": {"cfcam": 10.0, "gradcam": 20.0}, "baseline": "gradcam"}, "cfcam")[0]
        '10'
    """
    own, base = summary["cost"].get(method), summary["cost"].get(summary["baseline"])
    if own is None:
        return number(None), ""
    return f"{own:.3g}", f"{own / base:.2f} × {summary['baseline']}" if own and base else ""  # noqa: RUF001


def same_for_every_class(summary: Summary) -> list[str]:
    """A sentence for each method whose maps do not depend on the class, as the metric `class_sensitivity` found.

    Example:
        >>> same_for_every_class({"methods": {"eigencam": {"similarity_least": {"mean": 1.0}}}})[0][:49]
        'eigencam shows the same map for every class (corr'
    """
    sentences = []
    for method, entries in summary["methods"].items():
        mean = entries.get("similarity_least", {}).get("mean")
        if mean is not None and mean >= _SAME:
            sentences.append(
                f"{method} shows the same map for every class (correlation {mean:.2f} between the likeliest and "
                "the least likely): that it stays the same under noise is no merit."
            )
    return sentences


def conclusion(summary: Summary) -> str:
    """What the evaluation says in one sentence: the method that is better than the baseline in the most measures.

    Worse measures count against a method; measures without a better side do not count.

    Example:
        >>> columns = [{"name": "insertion", "curve": False, "better": "higher"}]
        >>> paired = {"cfcam": {"insertion": {"verdict": "better"}}}
        >>> conclusion({"images": 60, "columns": columns, "paired": paired, "baseline": "gradcam"})
        'Over 60 images cfcam is better than gradcam in 1 of 1 measures (insertion) and worse in none.'
    """
    over = f"Over {summary['images']:,} image{'' if summary['images'] == 1 else 's'}"
    if not summary["paired"]:
        return f"{over} nothing was compared: there is no baseline, or no other method."
    baseline = summary["baseline"]
    measures = [column["name"] for column in scalars(summary) if column["better"]]
    verdicts = {
        method: [verdict(summary, method, measure) for measure in measures] for method in summary["paired"]
    }
    lead = {method: list_.count("better") - list_.count("worse") for method, list_ in verdicts.items()}
    best = max(lead, key=lambda method: lead[method])
    if lead[best] <= 0:
        return f"{over} no method is better than {baseline} in more measures than it is worse."
    better, worse = (
        [title(m) for m, one in zip(measures, verdicts[best], strict=True) if one == kind]
        for kind in ("better", "worse")
    )
    against = f"{len(worse)} ({', '.join(worse)})" if worse else "none"
    return (
        f"{over} {best} is better than {baseline} in {len(better)} of {len(measures)} measures "
        f"({', '.join(better)}) and worse in {against}."
    )


def legend(summary: Summary) -> str:
    """How to read the numbers of a table, in one line.

    Example:
        >>> legend({"images": 60, "level": 0.95, "paired": {}})
        'Means over 60 images with 95% bootstrap intervals; ↑ higher is better, ↓ lower is better.'
    """
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
