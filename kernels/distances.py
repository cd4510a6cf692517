"""Exact percentile of the pairwise distances of each image's channels, without storing the distances.

PyTorch reference: `cfcam_gpu.cfcam.clustering.pairwise_distances` and `distance_percentile`.

Mathematics. d²(i,j) = Σ_k (x_ik - x_jk)² in float32, k ascending, one fused multiply-add for each
term, so that every kernel computes the same bits for a pair, whatever its tile. Non-negative floats
have the same order as their bit patterns, so the order statistic of a rank is found by narrowing an
interval of patterns that holds it: count the pairs below the interval and in each of its
2^`LOG2_BINS` equal parts, and go on with the part that holds the rank. A sample of pairs gives the
first interval, which only saves work: if the rank lies outside it, the search starts again from all
patterns. The result is exact and the same in every run; counts are integers, so that the order of
the atomic additions does not matter.

Least work: 2·D operations for each of N(N-1)/2 pairs in a pass, and usually two passes (three or
four where the sample misses the rank or many equal distances widen the interval); 4·N·D bytes read
for each image.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Logarithm of the number of parts of an interval, and the number of pairs in the sample.
LOG2_BINS = 11
SAMPLES = 4096

#: Passes from all 2³¹ patterns to one, and one more for a first interval that does not hold the rank.
_PASSES = 1 + -(-31 // LOG2_BINS)

#: A bit pattern above every distance, infinity included.
LAST = 0x7FFFFFFF


def distance_percentile(
    columns: Tensor, counts: Tensor, percentile: float, floor: float, block: int
) -> tuple[Tensor, Tensor]:
    """The percentile of the off-diagonal distances of each image, NumPy's linear interpolation.

    Launches: one program for each image that takes the sample, then `_PASSES` times a grid
    (B · pairs of tiles) that counts and one program for each image that narrows its interval. Programs
    of an image whose statistics are found end at once.

    Args:
        columns: (B,D,M) float32, finite: the features of the channels, transposed as `channels.columns` does.
        counts: (B,) int32, numbers of channels.
        percentile: 0 to 100.
        floor: the smallest eps, and the eps of an image with fewer than two channels.
        block: number of rows and of columns of a tile, a power of two from 32.

    Returns:
        The two squared distances (B,2) float32 around the percentile, zeros where there is no pair,
        and eps (B,) float64, interpolated between their square roots.
    """
    b, depth, padded = columns.shape
    pairs = tile_pairs(padded // block)
    low, shift = torch.empty_like(counts), torch.empty_like(counts)
    sizes = (_PASSES * b * 2**LOG2_BINS, _PASSES * b)
    bins, below = low.new_zeros(sum(sizes)).split(sizes)
    bins, below = bins.view(_PASSES, -1), below.view(_PASSES, b)
    above = low.new_full((_PASSES, b), LAST)
    statistics = torch.empty(b, 2, device=columns.device)
    eps = torch.empty(b, dtype=torch.float64, device=columns.device)
    position = percentile / 100
    found = (statistics, eps)
    _sample[(b,)](
        columns, counts, low, shift, *found, padded, depth, position, floor, SAMPLES, LOG2_BINS, LAST
    )
    for tally in zip(below, bins, above, strict=True):
        _count[(b * pairs,)](
            columns, counts, low, shift, *tally, pairs, padded, depth, block, LOG2_BINS, LAST
        )
        _narrow[(b,)](counts, low, shift, *tally, *found, position, floor, LOG2_BINS, LAST)
    return statistics, eps


def tile_size(n: int) -> int:
    """Number of rows and of columns of a tile of pairs among n channels.

    At 64×64 each thread of 4 warps has 32 sums.
    """
    return 32 if n <= 32 else 64


def tile_pairs(tiles: int) -> int:
    """Number of tiles on and above the diagonal: an image has a program for each of these."""
    return tiles * (tiles + 1) // 2


@triton.jit
def tile_pair(index: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Row and column of a tile on or above the diagonal, in the order (0,0), (0,1), (1,1), (0,2), …"""
    column = ((tl.sqrt(8.0 * index.to(tl.float32) + 1.0) - 1.0) * 0.5).to(tl.int32)
    # The root is rounded, for large indices also to the next column.
    column = tl.where(column * (column + 1) // 2 > index, column - 1, column)
    column = tl.where((column + 1) * (column + 2) // 2 <= index, column + 1, column)
    return index - column * (column + 1) // 2, column


@triton.jit
def tile_rows(tile: tl.tensor, BLOCK: tl.constexpr) -> tl.tensor:
    """The channels of a tile's rows, (BLOCK//8, 1, 8, 1) int32; row r at [r // 8, 0, r % 8, 0].

    The last two axes are the threads of 4 warps, the first two their registers. A thread that sums
    8×4 pairs of a 64×64 tile reads 12 floats for 64 operations in a step, so that arithmetic limits
    the speed. In a plain (BLOCK, BLOCK) tile a thread has 32×1 pairs, and reading limits it.
    """
    register = tl.arange(0, BLOCK // 8)[:, None, None, None]
    return tile * BLOCK + register * 8 + tl.arange(0, 8)[None, None, :, None]


@triton.jit
def tile_columns(tile: tl.tensor, BLOCK: tl.constexpr) -> tl.tensor:
    """The channels of a tile's columns, (1, BLOCK//16, 1, 16) int32; column c at [0, c // 16, 0, c % 16]."""
    register = tl.arange(0, BLOCK // 16)[None, :, None, None]
    return tile * BLOCK + register * 16 + tl.arange(0, 16)[None, None, None, :]


@triton.jit
def squared_distances(
    columns: tl.tensor,
    i: tl.tensor,
    j: tl.tensor,
    padded: tl.tensor,
    depth: tl.tensor,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    """Squared distances (BLOCK//8, BLOCK//16, 8, 16) float32 of a tile's rows i and columns j of one image."""
    total = tl.zeros((BLOCK // 8, BLOCK // 16, 8, 16), tl.float32)
    for k in range(depth):
        difference = tl.load(columns + k * padded + i) - tl.load(columns + k * padded + j)
        total = tl.fma(difference, difference, total)
    return total


@triton.jit
def _position(count: tl.tensor, POSITION: tl.constexpr) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """The ranks of the two order statistics among the pairs i < j, and the place between them, 0 to 1.

    The off-diagonal distances hold each pair twice. In float64, as the references compute it.
    """
    entries = count.to(tl.int64) * (count - 1)
    last = tl.maximum(entries - 1, 0)
    position = last.to(tl.float64) * POSITION
    low = tl.floor(position)
    first = low.to(tl.int64)
    return (first // 2).to(tl.int32), (tl.minimum(first + 1, last) // 2).to(tl.int32), position - low


@triton.jit
def _sample(
    columns: tl.tensor,
    counts: tl.tensor,
    low: tl.tensor,
    shift: tl.tensor,
    statistics: tl.tensor,
    eps: tl.tensor,
    padded: tl.tensor,
    depth: tl.tensor,
    POSITION: tl.constexpr,
    FLOOR: tl.constexpr,
    SAMPLES: tl.constexpr,
    LOG2_BINS: tl.constexpr,
    LAST: tl.constexpr,
) -> None:
    """The first interval of an image: it starts at `low`, and each of its parts is 2^shift patterns wide.

    Its ends are order statistics of a sample of pairs, 1/32 of the sample (at least 4 standard
    deviations) below and above the place where the rank is expected. An image without a pair needs
    no search: shift -1.
    """
    image = tl.program_id(0).to(tl.int64)
    count = tl.load(counts + image)
    draw = tl.arange(0, SAMPLES)
    others = tl.maximum(count - 1, 1)
    first = draw * count // SAMPLES
    second = (first + 1 + (tl.rand(0, draw) * others).to(tl.int32)) % (others + 1)
    total = tl.zeros((SAMPLES,), tl.float32)
    column = columns + image * depth * padded
    for k in range(depth):
        difference = tl.load(column + k * padded + first) - tl.load(column + k * padded + second)
        total = tl.fma(difference, difference, total)
    bits = total.to(tl.int32, bitcast=True)
    pairs = tl.maximum(count.to(tl.float32) * others.to(tl.float32) / 2, 1.0)
    rank, _, _ = _position(count, POSITION)
    middle = (rank.to(tl.float32) / pairs * SAMPLES).to(tl.int32)
    start = _at_rank(bits, middle - SAMPLES // 32, LAST)
    span = _at_rank(bits, middle + SAMPLES // 32, LAST) - start
    widths = tl.arange(0, 32)
    width = tl.sum(((span >> widths) >> LOG2_BINS > 0).to(tl.int32))
    tl.store(low + image, start)
    tl.store(shift + image, tl.where(count < 2, -1, width))
    # What an image without a pair keeps.
    tl.store(statistics + 2 * image + tl.arange(0, 2), 0.0)
    tl.store(eps + image, tl.full((), FLOOR, tl.float64))


@triton.jit
def _at_rank(bits: tl.tensor, rank: tl.tensor, LAST: tl.constexpr) -> tl.tensor:
    """The bit pattern at a rank of a vector; 0 for a negative rank, LAST for one past the end."""
    low, high = 0, LAST
    for _ in range(31):
        middle = low + (high - low) // 2
        enough = tl.sum((bits <= middle).to(tl.int32)) > rank
        high = tl.where(enough, middle, high)
        low = tl.where(enough, low, middle + 1)
    return high


@triton.jit
def _count(
    columns: tl.tensor,
    counts: tl.tensor,
    low: tl.tensor,
    shift: tl.tensor,
    below: tl.tensor,
    bins: tl.tensor,
    above: tl.tensor,
    pairs: tl.tensor,
    padded: tl.tensor,
    depth: tl.tensor,
    BLOCK: tl.constexpr,
    LOG2_BINS: tl.constexpr,
    LAST: tl.constexpr,
) -> None:
    """Counts a tile's pairs i < j below the interval and in each of its parts, and keeps the lowest pattern above."""
    row, column = tile_pair(tl.program_id(0) % pairs)
    image = (tl.program_id(0) // pairs).to(tl.int64)
    count = tl.load(counts + image)
    width = tl.load(shift + image)
    if (width >= 0) & (column * BLOCK < count):
        i, j = tile_rows(row, BLOCK), tile_columns(column, BLOCK)
        squared = squared_distances(columns + image * depth * padded, i, j, padded, depth, BLOCK)
        # Entries that are no pair come last in the order, behind every rank.
        bits = tl.where((i < j) & (j < count), squared.to(tl.int32, bitcast=True), LAST)
        part = (bits - tl.load(low + image)) >> width
        tl.atomic_add(below + image, tl.sum((part < 0).to(tl.int32)), sem="relaxed")
        # Most equal distances are 0, between dead channels, in part 0: the tile adds these up first,
        # since atomic additions to one address wait for each other.
        histogram = bins + (image << LOG2_BINS)
        tl.atomic_add(histogram, tl.sum((part == 0).to(tl.int32)), sem="relaxed")
        # Any order will do, so that the tile stays in the registers where it is.
        flat = tl.reshape(part, (BLOCK * BLOCK,), can_reorder=True)
        tl.atomic_add(histogram + flat, 1, mask=(flat > 0) & (flat < (1 << LOG2_BINS)), sem="relaxed")
        if width == 0:
            beyond = tl.where(part >= (1 << LOG2_BINS), bits, LAST)
            tl.atomic_min(above + image, tl.min(beyond), sem="relaxed")


@triton.jit
def _between(one: tl.tensor, other: tl.tensor, fraction: tl.tensor, FLOOR: tl.constexpr) -> tl.tensor:
    """The distance (float64) at a place between two squared distances, at least FLOOR."""
    start, end = tl.sqrt(one.to(tl.float64)), tl.sqrt(other.to(tl.float64))
    return tl.maximum(start + (end - start) * fraction, FLOOR)


@triton.jit
def _narrow(
    counts: tl.tensor,
    low: tl.tensor,
    shift: tl.tensor,
    below: tl.tensor,
    bins: tl.tensor,
    above: tl.tensor,
    statistics: tl.tensor,
    eps: tl.tensor,
    POSITION: tl.constexpr,
    FLOOR: tl.constexpr,
    LOG2_BINS: tl.constexpr,
    LAST: tl.constexpr,
) -> None:
    """The part of an image's interval that holds the rank becomes its interval.

    If that part is a single pattern the search ends: the first statistic is that pattern, the second
    the same one or the next that occurs.
    """
    image = tl.program_id(0).to(tl.int64)
    width = tl.load(shift + image)
    if width >= 0:
        rank, second, fraction = _position(tl.load(counts + image), POSITION)
        start = tl.load(low + image)
        before = tl.load(below + image)
        part = tl.arange(0, 1 << LOG2_BINS)
        inside = tl.load(bins + (image << LOG2_BINS) + part)
        reached = before + tl.cumsum(inside, 0)
        chosen = tl.sum((reached <= rank).to(tl.int32), 0)
        missed = (before > rank) | (chosen == (1 << LOG2_BINS))
        pattern = start + tl.where(missed, 0, chosen << width)
        later = tl.min(tl.where((part > chosen) & (inside > 0), start + part, LAST), 0)
        enough = tl.sum(((part == chosen) & (reached > second)).to(tl.int32), 0) > 0
        next_pattern = tl.where(enough, pattern, tl.minimum(later, tl.load(above + image)))
        single = (width == 0) & (missed == 0)
        one = pattern.to(tl.float32, bitcast=True)
        other = next_pattern.to(tl.float32, bitcast=True)
        tl.store(statistics + 2 * image, one, mask=single)
        tl.store(statistics + 2 * image + 1, other, mask=single)
        tl.store(eps + image, _between(one, other, fraction, FLOOR), mask=single)
        narrower = tl.where(width == 0, -1, tl.maximum(width - LOG2_BINS, 0))
        tl.store(low + image, tl.where(missed, 0, pattern))
        tl.store(shift + image, tl.where(missed, 31 - LOG2_BINS, narrower))
