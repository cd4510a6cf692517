"""Means with percentile intervals by resampling images (Efron and Tibshirani 1993, chapter 13)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

#: Most draws held at once.
DRAWS = 4_000_000


@dataclass(frozen=True)
class Intervals:
    """float64 `mean`, `low` and `high`, and int64 `n`, the images behind them; all of one shape.

    Without images all three are NaN; with one image there is a mean and no interval.
    """

    mean: Floats
    low: Floats
    high: Floats
    n: npt.NDArray[np.int64]


def bootstrap(values: Floats, seed: int, resamples: int, level: float) -> Intervals:
    """The mean over images of each column and its interval at `level`.

    Columns with values for the same images share the resamples, and each such set begins anew with
    `seed`: what a column gives does not depend on the columns beside it.

    Args:
        values: (images, …) float64, NaN where an image has no value: it is left out of that column.

    Returns:
        Intervals of the shape (…).
    """
    shape = values.shape[1:]
    x = values.reshape(len(values), math.prod(shape))
    valid = ~np.isnan(x)
    found = np.full((3, x.shape[1]), np.nan)
    if x.size:
        for rows, columns in _alike(valid):
            found[:, columns] = _interval(x[np.ix_(rows, columns)], seed, resamples, level)
    mean, low, high = found.reshape(3, *shape)
    return Intervals(mean, low, high, valid.sum(0).reshape(shape))


def _alike(valid: Mask) -> Iterator[tuple[Mask, Mask]]:
    """The different columns of (n, M), each with where it stands: (n,) and (M,)."""
    patterns, which = np.unique(valid, axis=1, return_inverse=True)
    for pattern, rows in enumerate(patterns.T):
        yield rows, which.reshape(-1) == pattern


def _interval(x: Floats, seed: int, resamples: int, level: float) -> Floats:
    """(3, M): mean, low and high of (n, M) without a NaN."""
    found = np.full((3, x.shape[1]), np.nan)
    if len(x):
        found[0] = x.mean(0)
    if len(x) > 1:
        tails = (1 - level) / 2, (1 + level) / 2
        found[1:] = np.quantile(_resampled_means(x, seed, resamples), tails, axis=0)
    return found


def _resampled_means(x: Floats, seed: int, resamples: int) -> Floats:
    """(resamples, M): the means of `x` (n, M) over n images drawn with replacement."""
    n, rng = len(x), np.random.default_rng(seed)
    at_once = max(1, DRAWS // n)
    means = []
    for start in range(0, resamples, at_once):
        k = min(at_once, resamples - start)
        draws = rng.integers(n, size=(k, n)) + n * np.arange(k)[:, None]
        # How often each image was drawn: one product then serves all columns.
        counts = np.bincount(draws.reshape(-1), minlength=k * n).reshape(k, n)
        means.append(counts.astype(np.float64) @ x / n)
    return np.concatenate(means)
