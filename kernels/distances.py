"""Exact percentile of the pairwise distances of each image's channels, without storing the distances.

Torch reference: `cfcam_gpu.cfcam.clustering.pairwise_distances` and `distance_percentile`.

Mathematics. d²(i,j) = Σ_k (x_ik - x_jk)² in float32, k ascending, one fused multiply-add a term, so
that every kernel that computes a pair gets the same bits whatever its tile. Non-negative floats
order as their bit patterns do, so the order statistic of a rank is found by narrowing an interval
of patterns that holds it: count the pairs below the interval and in each of its `BINS` equal parts,
go on with the part that holds the rank. A sample of pairs gives the first interval, which only
saves work: where the rank lies outside it, the search starts again from all patterns. The result is
exact and the same in every run; counts are integers, so the order of the atomic additions is free.

Floor: 2·D operations for each of N(N-1)/2 pairs in a pass, and two passes as a rule (three or four
where the sample misled or ties of both ends spread the interval); 4·N·D bytes read an image.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Parts an interval is cut into, as a power of two, and the pairs in the sample.
LOG2_BINS = 11
SAMPLES = 4096

#: From all 2³¹ patterns, and one pass more for an interval that does not hold the rank.
PASSES = 1 + -(-31 // LOG2_BINS)

#: A bit pattern above every distance, infinity included.
LAST = 0x7FFFFFFF


def distance_percentile(
    features: Tensor, counts: Tensor, percentile: float, floor: float, block: int | None = None
) -> tuple[Tensor, Tensor]:
    """The percentile of the off-diagonal distances of each image, NumPy's linear interpolation.

    Args:
        features: (B,N,D) float32, finite; the first `counts` rows of an image hold its channels.
        counts: (B,) int64.
        percentile: 0 to 100.
        floor: the least eps, and the eps of an image with fewer than two channels.
        block: rows and columns of a tile, a power of two from 32; None: `tile_size`.

    Returns:
        The two squared distances (B,2) float32 around the percentile, zeros where there is no pair,
        and eps (B,) float64, interpolated between their roots.
    """
    entries = (counts * (counts - 1)).double()
    last = (entries - 1).clamp_min(0)
    position = last * (percentile / 100)
    low = position.floor()
    ranks = torch.stack([low, torch.minimum(low + 1, last)], dim=1).long() // 2
    squared = order_statistics(features, counts, ranks, block)
    below, above = squared.double().sqrt().unbind(1)
    eps = torch.lerp(below, above, position - low)
    return squared, torch.where(counts < 2, floor, eps).clamp_min(floor)


def order_statistics(features: Tensor, counts: Tensor, ranks: Tensor, block: int | None = None) -> Tensor:
    """Squared distances (B,2) float32 at two ranks (B,2) among the pairs i < j of each image.

    The second rank is the first or the one after it; zeros where an image has no pair. Launches:
    one program an image for the sample, then `PASSES` times a grid (tiles, tiles, B) to count and
    one program an image to narrow. Programs of images that are settled leave at once.

    Args:
        features, counts, block: as for `distance_percentile`.
        ranks: (B,2) int64 from 0.
    """
    columns, block = feature_columns(features, block)
    b, depth, padded = columns.shape
    tiles = padded // block
    low, shift = torch.empty_like(counts, dtype=torch.int32), torch.empty_like(counts, dtype=torch.int32)
    below = low.new_zeros(PASSES, b)
    bins = low.new_zeros(PASSES, b, 2**LOG2_BINS)
    above = low.new_full((PASSES, b), LAST)
    statistics = columns.new_zeros(b, 2)
    _sample[(b,)](columns, counts, ranks, low, shift, padded, depth, SAMPLES, LOG2_BINS, LAST)
    for tally in zip(below, bins, above, strict=True):
        _count[(tiles, tiles, b)](columns, counts, low, shift, *tally, padded, depth, block, LOG2_BINS, LAST)
        _narrow[(b,)](ranks, low, shift, *tally, statistics, LOG2_BINS, LAST)
    return statistics


def tile_size(n: int) -> int:
    """Rows and columns of a tile of pairs among n channels: 32 sums a thread of 4 warps at 64×64."""
    return 32 if n <= 32 else 64


def feature_columns(features: Tensor, block: int | None = None) -> tuple[Tensor, int]:
    """Features (B,N,D) as columns (B,D,M), zeros up to M, the next multiple of the tile's size, and that size.

    A step over D then reads neighbouring floats, and no read of a tile leaves the tensor.
    """
    b, n, depth = features.shape
    block = block or tile_size(n)
    columns = features.new_zeros(b, depth, -(-n // block) * block)
    columns[:, :, :n] = features.mT
    return columns, block


@triton.jit
def tile_rows(tile: tl.tensor, BLOCK: tl.constexpr) -> tl.tensor:
    """The channels of a tile's rows, (BLOCK//8, 1, 8, 1) int32; row r at [r // 8, 0, r % 8, 0].

    The last two axes are the threads of 4 warps, the first two their registers: a thread that sums
    8×4 pairs of a 64×64 tile reads 12 floats a step for 64 operations, which arithmetic bounds. A
    plain (BLOCK, BLOCK) tile is laid out 32×1 a thread, and reading bounds it.
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
def _sample(
    columns: tl.tensor,
    counts: tl.tensor,
    ranks: tl.tensor,
    low: tl.tensor,
    shift: tl.tensor,
    padded: tl.tensor,
    depth: tl.tensor,
    SAMPLES: tl.constexpr,
    LOG2_BINS: tl.constexpr,
    LAST: tl.constexpr,
) -> None:
    """The first interval of an image: `low` and the `shift` that makes its parts 2^shift patterns wide.

    Its ends are order statistics of a sample of pairs, 1/32 of the sample (4 standard deviations at
    the least) on each side of the rank's share. An image without a pair is settled: shift -1.
    """
    image = tl.program_id(0).to(tl.int64)
    count = tl.load(counts + image).to(tl.int32)
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
    middle = (tl.load(ranks + 2 * image).to(tl.float32) / pairs * SAMPLES).to(tl.int32)
    start = _at_rank(bits, middle - SAMPLES // 32, LAST)
    span = _at_rank(bits, middle + SAMPLES // 32, LAST) - start
    widths = tl.arange(0, 32)
    width = tl.sum(((span >> widths) >> LOG2_BINS > 0).to(tl.int32))
    tl.store(low + image, start)
    tl.store(shift + image, tl.where(count < 2, -1, width))


@triton.jit
def _at_rank(bits: tl.tensor, rank: tl.tensor, LAST: tl.constexpr) -> tl.tensor:
    """The bit pattern at a rank of a vector; 0 for a negative rank, infinity for one past the end."""
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
    padded: tl.tensor,
    depth: tl.tensor,
    BLOCK: tl.constexpr,
    LOG2_BINS: tl.constexpr,
    LAST: tl.constexpr,
) -> None:
    """Count a tile's pairs i < j below the interval and in each of its parts; the least pattern above it."""
    row, column = tl.program_id(0), tl.program_id(1)
    image = tl.program_id(2).to(tl.int64)
    count = tl.load(counts + image).to(tl.int32)
    width = tl.load(shift + image)
    if (width >= 0) & (row <= column) & (column * BLOCK < count):
        i, j = tile_rows(row, BLOCK), tile_columns(column, BLOCK)
        squared = squared_distances(columns + image * depth * padded, i, j, padded, depth, BLOCK)
        # What is no pair comes last in the order, where no rank looks.
        bits = tl.where((i < j) & (j < count), squared.to(tl.int32, bitcast=True), LAST)
        part = (bits - tl.load(low + image)) >> width
        tl.atomic_add(below + image, tl.sum((part < 0).to(tl.int32)), sem="relaxed")
        # Most ties are dead channels at distance 0, the low end: the tile adds them up, since
        # additions to one address wait for each other.
        histogram = bins + (image << LOG2_BINS)
        tl.atomic_add(histogram, tl.sum((part == 0).to(tl.int32)), sem="relaxed")
        # In any order, so that the tile stays in the registers it is in.
        flat = tl.reshape(part, (BLOCK * BLOCK,), can_reorder=True)
        tl.atomic_add(histogram + flat, 1, mask=(flat > 0) & (flat < (1 << LOG2_BINS)), sem="relaxed")
        if width == 0:
            beyond = tl.where(part >= (1 << LOG2_BINS), bits, LAST)
            tl.atomic_min(above + image, tl.min(beyond), sem="relaxed")


@triton.jit
def _narrow(
    ranks: tl.tensor,
    low: tl.tensor,
    shift: tl.tensor,
    below: tl.tensor,
    bins: tl.tensor,
    above: tl.tensor,
    statistics: tl.tensor,
    LOG2_BINS: tl.constexpr,
    LAST: tl.constexpr,
) -> None:
    """The part of an image's interval that holds the rank becomes its interval.

    A part that is one pattern settles the image: the first statistic is that pattern, the second
    the same or the next one that occurs.
    """
    image = tl.program_id(0).to(tl.int64)
    width = tl.load(shift + image)
    if width >= 0:
        rank = tl.load(ranks + 2 * image).to(tl.int32)
        second = tl.load(ranks + 2 * image + 1).to(tl.int32)
        start = tl.load(low + image)
        before = tl.load(below + image)
        part = tl.arange(0, 1 << LOG2_BINS)
        inside = tl.load(bins + (image << LOG2_BINS) + part)
        reached = before + tl.cumsum(inside, 0)
        chosen = tl.sum((reached <= rank).to(tl.int32), 0)
        missed = (before > rank) | (chosen == (1 << LOG2_BINS))
        found = start + tl.where(missed, 0, chosen << width)
        later = tl.min(tl.where((part > chosen) & (inside > 0), start + part, LAST), 0)
        enough = tl.sum(((part == chosen) & (reached > second)).to(tl.int32), 0) > 0
        following = tl.where(enough, found, tl.minimum(later, tl.load(above + image)))
        settled = (width == 0) & (missed == 0)
        tl.store(statistics + 2 * image, found.to(tl.float32, bitcast=True), mask=settled)
        tl.store(statistics + 2 * image + 1, following.to(tl.float32, bitcast=True), mask=settled)
        narrower = tl.where(width == 0, -1, tl.maximum(width - LOG2_BINS, 0))
        tl.store(low + image, tl.where(missed, 0, found))
        tl.store(shift + image, tl.where(missed, 31 - LOG2_BINS, narrower))
