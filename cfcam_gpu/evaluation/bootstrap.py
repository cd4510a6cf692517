"""Means over images with intervals, in one pass: the percentile bootstrap with Poisson numbers of draws.

The bootstrap draws n images with replacement (Efron and Tibshirani 1993, chapter 13): how often an image is drawn is
multinomial. Here each image is drawn a Poisson(1) number of times, whatever the others are (Chamandy et al. 2012,
"Estimating uncertainty for massive data streams"), so sums can be taken image by image, in any order, and be added up.
The size of a resample then varies around n, which makes intervals wider by a share of about 1/(2n).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.intp]
_Words = npt.NDArray[np.uint64]

#: Most random draws, and most means of resamples, that are in memory at once.
_MOST_DRAWS = 1_000_000


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


class Bootstrap:
    """Sums over images of some columns, and over resamples of the images.

    An image whose value is NaN is left out of that column. How often a resample draws an image depends only on its id
    and the seed: the intervals do not depend on the order of the images, on how they come, or on the columns beside.
    The memory does not depend on the number of images: 8 bytes for each column and resample, and as many for each set
    of columns that have values for the same images.

    Args:
        shape: of the columns.
        resamples: number of resamples of the images.

    Example:
        >>> bootstrap = Bootstrap((1,), resamples=500)
        >>> draws = draw_counts(["a", "b", "c", "d"], seed=0, resamples=500)
        >>> bootstrap.add(np.array([[1.0], [2.0], [6.0], [np.nan]]), draws)
        >>> intervals = bootstrap.intervals(level=0.9)
        >>> intervals.mean, intervals.n
        (array([3.]), array([3]))
        >>> bool(1 <= intervals.low[0] < 3 < intervals.high[0] <= 6)
        True
    """

    def __init__(self, shape: tuple[int, ...], resamples: int) -> None:
        self.shape, self.resamples = shape, resamples
        columns = math.prod(shape)
        self._sum = np.zeros(columns)
        self._sums = np.zeros((resamples, columns))
        # Columns that have had values for the same images are one group and share the numbers of images.
        self._group: _Ints = np.zeros(columns, np.intp)
        self._n = np.zeros(1, np.int64)
        self._ns = np.zeros((resamples, 1))

    def add(self, values: Floats, draws: npt.NDArray[np.uint8]) -> None:
        """Adds images.

        Args:
            values: (images, *shape) float64.
            draws: (images, resamples), their `draw_counts`; all images of one bootstrap by one seed.
        """
        x = values.reshape(len(values), len(self._sum))
        times = draws.T.astype(np.float64)
        valid = ~np.isnan(x)
        self._split(np.packbits(valid, axis=0).astype(np.intp))
        there = valid[:, self._firsts()].astype(np.float64)
        self._n += there.sum(0).astype(np.int64)
        self._ns += times @ there
        x = np.where(valid, x, 0)
        self._sum += x.sum(0)
        self._sums += times @ x

    def merge(self, other: Bootstrap) -> None:
        """Adds the images of another one with the same shape and number of resamples."""
        self._split(other._group[None])
        others = other._group[self._firsts()]
        self._n += other._n[others]
        self._ns += other._ns[:, others]
        self._sum += other._sum
        self._sums += other._sums

    def _split(self, patterns: _Ints) -> None:
        """Splits groups whose columns differ in the patterns (any, columns)."""
        keys, group = np.unique(np.vstack([self._group[None], patterns]), axis=1, return_inverse=True)
        before = keys[0]
        self._n, self._ns, self._group = self._n[before], self._ns[:, before], group.reshape(-1)

    def _firsts(self) -> _Ints:
        """The first column of each group."""
        return np.unique(self._group, return_index=True)[1]

    def intervals(self, level: float) -> Intervals:
        """The means and their intervals, of this level between 0 and 1."""
        n = self._n[self._group]
        bounds = np.full((2, len(n)), np.nan)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = self._sum / n
            for columns in blocks(len(n), self.resamples):
                means = self._sums[:, columns] / self._ns[:, self._group[columns]]
                bounds[:, columns] = _quantiles(means, [(1 - level) / 2, (1 + level) / 2])
        low, high = np.where(n > 1, bounds, np.nan).reshape(2, *self.shape)
        return Intervals(mean.reshape(self.shape), low, high, n.reshape(self.shape))


def blocks(count: int, resamples: int) -> Iterator[slice]:
    """Slices of `count` images or columns, each of which takes some MB for all resamples.

    Example:
        >>> list(blocks(900, resamples=2000))
        [slice(0, 500, None), slice(500, 1000, None)]
    """
    step = max(1, _MOST_DRAWS // resamples)
    return (slice(start, start + step) for start in range(0, count, step))


def _quantiles(x: Floats, shares: Sequence[float]) -> Floats:
    """(shares, columns): the quantiles of (n, columns), as NumPy's; NaN, of resamples without an image, is left out."""
    ranked = np.sort(x, axis=0)  # NaN last
    last = (~np.isnan(ranked)).sum(0) - 1
    position = np.asarray(shares)[:, None] * np.maximum(last, 0)
    below = position.astype(np.intp)
    low = np.take_along_axis(ranked, below, 0)
    high = np.take_along_axis(ranked, np.minimum(below + 1, np.maximum(last, 0)), 0)
    return np.asarray(low + (high - low) * (position - below))


def draw_counts(sample_ids: Sequence[str], seed: int, resamples: int) -> npt.NDArray[np.uint8]:
    """How often each resample draws each image: Poisson(1), of the image's id and the seed alone.

    Returns:
        (images, resamples) uint8. Probabilities are multiples of 2^-16, so numbers above 8 do not occur.

    Example:
        >>> draw_counts(["a", "b"], 0, 1000).mean(1).round()
        array([1., 1.])
    """
    texts = (f"{seed}/{sample_id}".encode("utf-8", "surrogatepass") for sample_id in sample_ids)
    digests = b"".join(hashlib.blake2b(text, digest_size=8).digest() for text in texts)
    seeds = np.frombuffer(digests, "<u8").astype(np.uint64)
    words = -(-resamples // 4)
    uniform = _mixed(seeds[:, None] + _STEP * np.arange(1, words + 1, dtype=np.uint64)).astype("<u8")
    return _COUNTS[uniform.view("<u2")[:, :resamples]]


#: SplitMix64 (Steele, Lea and Flood 2014): its step, and the shifts and factors that mix a state's bits.
_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def _mixed(x: _Words) -> _Words:
    for shift, factor in _MIX:
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return np.asarray(x ^ (x >> np.uint64(31)))


def _counts() -> npt.NDArray[np.uint8]:
    """(65536,) the Poisson(1) number of each uniform 16-bit number."""
    below = np.cumsum([math.exp(-1) / math.factorial(k) for k in range(12)])
    return np.searchsorted(np.round(below * 65536), np.arange(65536), side="right").astype(np.uint8)


_COUNTS = _counts()
