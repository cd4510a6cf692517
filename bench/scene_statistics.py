"""Means of paired answers, their differences with intervals and corrected p: by photo and by object.

Answers about one photo, or about several photos of one kind of object, are no independent observations: both intervals
and both p take all of them together. A difference counts by the larger p of both.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Key = TypeVar("Key", bound=Hashable)

#: Resamples of an interval, and patterns of signs for a p.
RESAMPLES, FLIPS = 4000, 20_000

#: Method -> column -> one value for each question; NaN where a column is not defined for it.
Values = Sequence[float] | Floats
Answers = Mapping[str, Mapping[str, Values]]


def compared(values: Values, base: Values, photos: Sequence[str], objects: Sequence[str]) -> dict[str, Any]:
    """The difference of paired values, `values` less `base`, over the questions that have both.

    Returns:
        difference: its mean. low, high: 95 % interval by bootstrap over photos (Efron and Tibshirani 1993, chapter
        13). p: two-sided, by flipping the signs of photos' differences. photos: their number. Where an object occurs
        in several photos also low_object, high_object and objects, and p is the larger of both. Intervals are None
        with a single photo or object.

    Example:
        >>> found = compared([0.5, 0.75, 1.0], [0.0, 0.25, 0.5], ["a", "b", "c"], ["cat", "cat", "dog"])
        >>> found["difference"], found["low"], found["high"], found["objects"]
        (0.5, 0.5, 0.5, 2)
    """
    differences = np.asarray(values, dtype=float) - np.asarray(base, dtype=float)
    kept = np.isfinite(differences)
    differences = differences[kept]
    if not len(differences):
        return {"difference": None, "low": None, "high": None, "p": 1.0, "photos": 0}
    by_photo, by_object = np.asarray(photos)[kept], np.asarray(objects)[kept]
    low, high, p, count = _clustered(differences, by_photo)
    found = {"difference": float(differences.mean()), "low": low, "high": high, "p": p, "photos": count}
    if len({*zip(by_photo, by_object, strict=True)}) > len({*by_object}):
        low, high, p_object, count = _clustered(differences, by_object)
        found |= {"low_object": low, "high_object": high, "objects": count, "p": max(p, p_object)}
    return found


def _clustered(
    differences: Floats, clusters: npt.NDArray[Any]
) -> tuple[float | None, float | None, float, int]:
    """Low and high end of the mean's interval, p, and the number of clusters."""
    names, which = np.unique(clusters, return_inverse=True)
    if len(names) < 2:
        return None, None, 1.0, len(names)
    sums, sizes = np.bincount(which, differences), np.bincount(which)
    drawn = _draws(len(names))
    low, high = np.percentile((drawn @ sums) / (drawn @ sizes), (2.5, 97.5))
    least = abs(sums.sum()) - 1e-9 * np.abs(sums).sum()  # equal but for rounding is as extreme
    extreme = int((np.abs(_signs(len(names)) @ sums) >= least).sum())
    return float(low), float(high), (1 + extreme) / (1 + FLIPS), len(names)


@lru_cache(maxsize=8)
def _draws(count: int) -> Floats:
    """(RESAMPLES, count): how often each cluster is drawn."""
    return np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLES).astype(float)


@lru_cache(maxsize=8)
def _signs(count: int) -> Floats:
    """(FLIPS, count) of -1 and 1."""
    return np.random.default_rng(1).choice((-1.0, 1.0), size=(FLIPS, count))


def holm(p: Mapping[Key, float]) -> dict[Key, float]:
    """p of several comparisons, corrected for their number (Holm 1979).

    Example:
        >>> holm({"a": 0.01, "b": 0.04, "c": 0.02})
        {'a': 0.03, 'c': 0.04, 'b': 0.04}
    """
    corrected, highest = {}, 0.0
    for place, name in enumerate(sorted(p, key=lambda one: p[one])):
        highest = max(highest, min(1.0, p[name] * (len(p) - place)))
        corrected[name] = round(highest, 4)
    return corrected


def summary(
    answers: Answers,
    photos: Sequence[str],
    objects: Sequence[str],
    *,
    base: str,
    better: Mapping[str, str],
    families: Mapping[str, str],
    rivals: Mapping[str, Sequence[str]],
) -> dict[str, dict[str, dict[str, Any]]]:
    """Method -> column -> mean, and the comparison with the base; `rival` is the one with the best rival.

    Args:
        base: the method that all are compared with.
        better: column -> `higher` or `lower`.
        families: method -> name of the set of methods whose comparisons, in all columns, are corrected together.
        rivals: method -> those among which the best of each column is its rival. That one is chosen by the same
            answers, which favours the rival.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for label, columns in answers.items():
        found[label] = {
            name: {"mean": _mean(values), **compared(values, answers[base][name], photos, objects)}
            for name, values in columns.items()
        }
    for label, others in rivals.items():
        for name, figure in found.get(label, {}).items():
            rival = _best([one for one in others if one in answers], answers, name, better[name])
            if rival:
                figure["rival"] = {
                    "method": rival,
                    **compared(answers[label][name], answers[rival][name], photos, objects),
                }
    for family in {*families.values()}:
        inside = {label: of for label, of in found.items() if families[label] == family and label != base}
        _correct([of for columns in inside.values() for of in columns.values()])
        _correct([of["rival"] for columns in inside.values() for of in columns.values() if "rival" in of])
    return found


def _best(labels: Sequence[str], answers: Answers, column: str, better: str) -> str | None:
    means = {label: _mean(answers[label][column]) for label in labels}
    known = {label: mean for label, mean in means.items() if mean is not None}
    choose = max if better == "higher" else min
    return choose(known, key=lambda label: known[label]) if known else None


def _mean(values: Values) -> float | None:
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    return float(finite.mean()) if len(finite) else None


def _correct(figures: Sequence[dict[str, Any]]) -> None:
    for index, p in holm({index: figure["p"] for index, figure in enumerate(figures)}).items():
        figures[index]["p_holm"] = p
