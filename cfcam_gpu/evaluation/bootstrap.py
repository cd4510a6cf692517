"""Means over images with intervals: the percentile bootstrap (Efron and Tibshirani 1993, chapter 13)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
_Mask = npt.NDArray[np.bool_]

#: Most random draws that are in memory at once.
_MOST_DRAWS = 4_000_000


@dataclass(frozen=True)
class Intervals:
    """Means and their intervals; all arrays have the same shape.

    Without images the mean and the interval are NaN. With one image there is a mean, and the interval is NaN.

    Attributes:
        mean, low, high: float64.
        n: int64, number of images behind them.
    """

    mean: Floats
    low: Floats
    high: Floats
    n: npt.NDArray[np.int64]


def bootstrap(values: Floats, seed: int, resamples: int, level: float) -> Intervals:
    """The mean over images of each column and its interval.

    Columns that have values for the same images share the resamples. Each such set of columns starts again with
    `seed`, so the interval of a column does not depend on the columns beside it.

    Args:
        values: (images, …) float64; an image whose value is NaN is left out of that column.
        resamples: number of resamples of the images.
        level: of the interval, between 0 and 1.

    Returns:
        Intervals of the shape (…).

    Example:
        >>> intervals = bootstrap(np.array([[1.0], [2.0], [6.0], [np.nan]]), seed=0, resamples=500, level=0.9)
        >>> intervals.mean, intervals.n
        (array([3.]), array([3]))
        >>> bool(1 <= intervals.low[0] < 3 < intervals.high[0] <= 6)
        True
    """
    shape = values.shape[1:]
    x = values.reshape(len(values), math.prod(shape))
    valid = ~np.isnan(x)
    results = np.full((3, x.shape[1]), np.nan)
    if x.size:
        for rows, columns in _columns_by_rows(valid):
            results[:, columns] = _interval(x[np.ix_(rows, columns)], seed, resamples, level)
    mean, low, high = results.reshape(3, *shape)
    return Intervals(mean, low, high, valid.sum(0).reshape(shape))


def _columns_by_rows(valid: _Mask) -> Iterator[tuple[_Mask, _Mask]]:
    """Groups of columns of (n, M) that are equal: their rows (n,), and which columns they are (M,)."""
    patterns, which = np.unique(valid, axis=1, return_inverse=True)
    for pattern, rows in enumerate(patterns.T):
        yield rows, which.reshape(-1) == pattern


def _interval(x: Floats, seed: int, resamples: int, level: float) -> Floats:
    """(3, M): mean, low and high of (n, M), which holds no NaN."""
    results = np.full((3, x.shape[1]), np.nan)
    if len(x):
        results[0] = x.mean(0)
    if len(x) > 1:
        tails = (1 - level) / 2, (1 + level) / 2
        results[1:] = np.quantile(_resampled_means(x, seed, resamples), tails, axis=0)
    return results


def _resampled_means(x: Floats, seed: int, resamples: int) -> Floats:
    """(resamples, M): the means of `x` (n, M) over n images drawn with replacement."""
    n, rng = len(x), np.random.default_rng(seed)
    chunk = max(1, _MOST_DRAWS // n)
    means = []
    for start in range(0, resamples, chunk):
        k = min(chunk, resamples - start)
        draws = rng.integers(n, size=(k, n)) + n * np.arange(k)[:, None]
        # Counting how often each image was drawn makes one matrix product serve all columns.
        counts = np.bincount(draws.reshape(-1), minlength=k * n).reshape(k, n)
        means.append(counts.astype(np.float64) @ x / n)
    return np.concatenate(means)
