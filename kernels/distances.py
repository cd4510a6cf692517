"""Squared distances of a tile of channels, and the percentile of all pairs' distances, in one pass over the pairs.

PyTorch reference: `cfcam_gpu.cfcam.clustering.pairwise_distances` and `distance_percentile`.

Mathematics. d²(i,j) = Σ_k (x_ik - x_jk)² in float32, k ascending, one fused multiply-add for each
term, so that every kernel computes the same bits for a pair, whatever its tile. Non-negative floats
have the same order as their bit patterns. A sample of pairs gives an interval of patterns that holds
the percentile, unless the sample misleads; `neighbours` computes every distance once, counts the pairs
below the interval and keeps those inside; the percentile is an order statistic of the kept ones. Where
the interval turns out not to hold it, or too many pairs lie inside, as with many equal distances, the
image is searched again from all patterns (`exact`). The result is exact and the same in every run.

Least work: 2·D operations for each of N(N-1)/2 pairs; 4·N·D bytes read for each image.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

#: Number of pairs in the sample, and of those that one program draws.
SAMPLES = 8192
_DRAWS = 1024

#: The interval reaches from the place where the rank is expected this part of the sample below to as much above:
#: 4.7 standard deviations at the percentile 25, if the draws were independent.
_MARGIN = 44

#: Number of rows and of columns of a tile of pairs, and warps of the program that computes it.
TILE = 128
TILE_WARPS = 8

#: A bit pattern above every distance, infinity included; NaN, the distance of a row without a channel, may be higher.
LAST = 0x7F800001

#: Patterns that are added to the interval's end: DBSCAN's radius may lie a little above the percentile.
_BEYOND = 64

#: Number of kept pairs that are read at once.
_KEPT = 2048


def tile_pairs(tiles: int) -> int:
    """Number of tiles on and above the diagonal: an image has a program for each of these."""
    return tiles * (tiles + 1) // 2


def first_pattern(floor: float) -> int:
    """The lowest bit pattern of a squared distance whose root lies above the smallest eps.

    Example:
        >>> first_pattern(0.0)
        1
    """
    bits = int(np.float32(floor * floor).view(np.int32)) + 2
    while bits and math.sqrt(float(np.int32(bits - 1).view(np.float32))) > floor:
        bits -= 1
    return bits


def sampled_interval(
    columns: Tensor, counts: Tensor, percentile: float, floor: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """An interval of bit patterns that very likely holds the squared distances around the percentile.

    Launches: `SAMPLES` / `_DRAWS` programs for each image that draw pairs, one that finds the interval.

    Args:
        columns: (B,D,M) float32, finite: the features of the channels, transposed as `channels.columns` does.
        counts: (B,) int32, numbers of channels.
        percentile: 0 to 100.
        floor: the smallest eps; pairs within it lie below every interval.

    Returns:
        The first pattern (B,) int32 and the first one past the end (B,); two counters (B,), which are 0.
    """
    b, depth, padded = columns.shape
    sample = torch.empty(b, SAMPLES, dtype=torch.int32, device=columns.device)
    start, end, below, kept = torch.empty(4, b, dtype=torch.int32, device=columns.device).unbind(0)
    draws = min(_DRAWS, SAMPLES)
    programs = SAMPLES // draws
    _sample[(b * programs,)](columns, counts, sample, programs, padded, depth, draws, SAMPLES)
    _interval[(b,)](
        sample, counts, start, end, below, kept, percentile / 100, first_pattern(floor),
        SAMPLES, SAMPLES // _MARGIN, _BEYOND, LAST, num_warps=8,
    )  # fmt: skip
    return start, end, below, kept


def select(
    patterns: Tensor,
    counts: Tensor,
    interval: tuple[Tensor, Tensor, Tensor, Tensor],
    percentile: float,
    floor: float,
    factor: float,
) -> tuple[Tensor, Tensor]:
    """eps (B,) float64 and the bit pattern of the largest d² of a neighbour (B,) int32, -1 where they are not found.

    Launch: one program for each image.

    Args:
        patterns: (B,capacity) int32, of the squared distances of the kept pairs, in any order.
        counts: (B,) int32, numbers of channels.
        interval: start, end, number of pairs below and of pairs inside, each (B,) int32.
        percentile: 0 to 100, NumPy's linear interpolation among the off-diagonal distances.
        floor: the smallest eps, and the eps of an image with fewer than two channels.
        factor: neighbours lie within eps · factor.
    """
    b, capacity = patterns.shape
    eps = torch.empty(b, dtype=torch.float64, device=patterns.device)
    limit = torch.empty(b, dtype=torch.int32, device=patterns.device)
    _select[(b,)](
        patterns, counts, *interval, eps, limit, capacity, percentile / 100, floor, factor,
        first_pattern(floor), LAST, _KEPT, num_warps=8,
    )  # fmt: skip
    return eps, limit


@triton.jit
def tile_pair(index: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Row and column of a tile on or above the diagonal, in the order (0,0), (0,1), (1,1), (0,2), …"""
    column = ((tl.sqrt(8.0 * index.to(tl.float32) + 1.0) - 1.0) * 0.5).to(tl.int32)
    # The root is rounded, for large indices also to the next column.
    column = tl.where(column * (column + 1) // 2 > index, column - 1, column)
    column = tl.where((column + 1) * (column + 2) // 2 <= index, column + 1, column)
    return index - column * (column + 1) // 2, column


@triton.jit
def tile_rows(tile: tl.tensor) -> tl.tensor:
    """The channels of a tile's rows, (8,1,16,1) int32; row r at [r // 16, 0, r % 16, 0].

    The last two axes are the threads of 8 warps, the first two their registers. A thread that sums 8×8 pairs
    reads 16 floats for 128 operations in a step, so that arithmetic limits the speed. In a plain (128,128) tile
    a thread has all its pairs in one column, and reading limits it.
    """
    return tile * 128 + tl.arange(0, 8)[:, None, None, None] * 16 + tl.arange(0, 16)[None, None, :, None]


@triton.jit
def tile_columns(tile: tl.tensor) -> tl.tensor:
    """The channels of a tile's columns, (1,8,1,16) int32; column c at [0, c // 16, 0, c % 16]."""
    return tile * 128 + tl.arange(0, 8)[None, :, None, None] * 16 + tl.arange(0, 16)[None, None, None, :]


@triton.jit
def squared_distances(
    columns: tl.tensor, row: tl.tensor, column: tl.tensor, padded: tl.tensor, depth: tl.tensor
) -> tl.tensor:
    """Bit patterns (8,8,16,16) int32 of the squared distances of a tile's channels; NaN's without a channel."""
    total = tl.zeros((8, 8, 16, 16), tl.float32)
    lane, register = tl.arange(0, 16), tl.arange(0, 8) * 16
    # The registers' places differ by constants, so that a step moves two addresses only.
    rows, others = columns + row * 128 + lane, columns + column * 128 + lane
    for _ in range(depth):
        left = tl.load(rows[None, None, :, None] + register[:, None, None, None])
        right = tl.load(others[None, None, None, :] + register[None, :, None, None])
        difference = left - right
        total = tl.fma(difference, difference, total)
        rows += padded
        others += padded
    return total.to(tl.int32, bitcast=True)


@triton.jit
def position(count: tl.tensor, POSITION: tl.constexpr) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """The ranks of the two order statistics among the pairs i < j, and the place between them, 0 to 1.

    The off-diagonal distances hold each pair twice. In float64, as the references compute it.
    """
    entries = count.to(tl.int64) * (count - 1)
    last = tl.maximum(entries - 1, 0)
    place = last.to(tl.float64) * POSITION
    low = tl.floor(place)
    first = low.to(tl.int64)
    return (first // 2).to(tl.int32), (tl.minimum(first + 1, last) // 2).to(tl.int32), place - low


@triton.jit
def between(one: tl.tensor, other: tl.tensor, fraction: tl.tensor, FLOOR: tl.constexpr) -> tl.tensor:
    """The distance (float64) at a place between those of two bit patterns, at least FLOOR."""
    start = tl.sqrt(one.to(tl.float32, bitcast=True).to(tl.float64))
    end = tl.sqrt(other.to(tl.float32, bitcast=True).to(tl.float64))
    return tl.maximum(start + (end - start) * fraction, FLOOR)


@triton.jit
def squared_limit(eps: tl.tensor, FACTOR: tl.constexpr) -> tl.tensor:
    """The largest float32 whose correctly rounded square root is at most t = eps · FACTOR, rounded to float32.

    So d² <= limit is the comparison √d² <= t without a square root for each pair. eps is float64 and
    positive. The square root of x rounds to t or below when x < m², with m half way from t to the next
    float. m has 25 bits, so m² is exact in float64 and never a float32.
    """
    t = (eps * FACTOR).to(tl.float32)
    above = (t.to(tl.int32, bitcast=True) + 1).to(tl.float32, bitcast=True)
    middle = (t.to(tl.float64) + above.to(tl.float64)) * 0.5
    square = middle * middle
    rounded = square.to(tl.float32)
    before = (rounded.to(tl.int32, bitcast=True) - 1).to(tl.float32, bitcast=True)
    return tl.where(rounded.to(tl.float64) > square, before, rounded)


@triton.jit
def _sample(
    columns: tl.tensor,
    counts: tl.tensor,
    sample: tl.tensor,
    programs: tl.tensor,
    padded: tl.tensor,
    depth: tl.tensor,
    DRAWS: tl.constexpr,
    SAMPLES: tl.constexpr,
) -> None:
    """Bit patterns of the squared distances of one program's share of an image's sample.

    Each channel is paired with the one some channels further on, all of them in turn, then with another
    step: so each is drawn as often as any other, and neighbouring draws read neighbouring floats.
    """
    image = (tl.program_id(0) // programs).to(tl.int64)
    count = tl.maximum(tl.load(counts + image), 1)
    draw = tl.program_id(0) % programs * DRAWS + tl.arange(0, DRAWS)
    first = tl.where(count > SAMPLES, draw * (count // SAMPLES), draw % count)
    others = tl.maximum(count - 1, 1)
    step = 1 + (tl.rand(0, draw // count) * others).to(tl.int32)
    second = (first + step) % (others + 1)
    total = tl.zeros((DRAWS,), tl.float32)
    column = columns + image * depth * padded
    for k in range(depth):
        difference = tl.load(column + k * padded + first) - tl.load(column + k * padded + second)
        total = tl.fma(difference, difference, total)
    tl.store(sample + image * SAMPLES + draw, total.to(tl.int32, bitcast=True))


@triton.jit
def _interval(
    sample: tl.tensor,
    counts: tl.tensor,
    start: tl.tensor,
    end: tl.tensor,
    below: tl.tensor,
    kept: tl.tensor,
    POSITION: tl.constexpr,
    FIRST: tl.constexpr,
    SAMPLES: tl.constexpr,
    MARGIN: tl.constexpr,
    BEYOND: tl.constexpr,
    LAST: tl.constexpr,
) -> None:
    """The interval of one image, from FIRST on, and its counters."""
    image = tl.program_id(0).to(tl.int64)
    count = tl.load(counts + image)
    bits = tl.load(sample + image * SAMPLES + tl.arange(0, SAMPLES))
    rank, _, _ = position(count, POSITION)
    pairs = tl.maximum(count.to(tl.float32) * (count - 1).to(tl.float32) / 2, 1.0)
    middle = (rank.to(tl.float32) / pairs * SAMPLES).to(tl.int32)
    lowest = tl.maximum(_at_rank(bits, middle - MARGIN, LAST), FIRST)
    highest = tl.maximum(_at_rank(bits, middle + MARGIN, LAST), FIRST)
    tl.store(start + image, lowest)
    tl.store(end + image, tl.where(highest > LAST - BEYOND, LAST, highest + BEYOND))
    tl.store(below + image, 0)
    tl.store(kept + image, 0)


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
def _select(
    patterns: tl.tensor,
    counts: tl.tensor,
    starts: tl.tensor,
    ends: tl.tensor,
    belows: tl.tensor,
    kepts: tl.tensor,
    eps: tl.tensor,
    limits: tl.tensor,
    capacity: tl.tensor,
    POSITION: tl.constexpr,
    FLOOR: tl.constexpr,
    FACTOR: tl.constexpr,
    FIRST: tl.constexpr,
    LAST: tl.constexpr,
    KEPT: tl.constexpr,
) -> None:
    """eps and the limit of one image, from the patterns that were kept, where these suffice."""
    image = tl.program_id(0).to(tl.int64)
    count, start, end = tl.load(counts + image), tl.load(starts + image), tl.load(ends + image)
    below, kept = tl.load(belows + image), tl.load(kepts + image)
    rank, second, fraction = position(count, POSITION)
    # Both distances within the smallest eps: they need not be known.
    at_floor = (count < 2) | ((second < below) & (start == FIRST))
    inside = (rank >= below) & (second < below + kept) & (kept <= capacity)
    found = tl.full((), FLOOR, tl.float64)
    if inside & (at_floor == 0):
        values = patterns + image * capacity
        pattern = _kept_at_rank(values, kept, rank - below, start, end, LAST, KEPT)
        repeated, following = _after(values, kept, pattern, LAST, KEPT)
        following = tl.where(repeated > second - below, pattern, following)
        found = between(pattern, following, fraction, FLOOR)
    limit = squared_limit(found, FACTOR).to(tl.int32, bitcast=True)
    known = (at_floor | inside) & (limit < end)
    tl.store(eps + image, found)
    tl.store(limits + image, tl.where(known, limit, -1))


@triton.jit
def _kept_at_rank(
    values: tl.tensor,
    kept: tl.tensor,
    rank: tl.tensor,
    start: tl.tensor,
    end: tl.tensor,
    LAST: tl.constexpr,
    KEPT: tl.constexpr,
) -> tl.tensor:
    """The pattern at a rank of the kept ones: their range is quartered until one pattern is left."""
    low, high = start, end - 1
    while low < high:
        quarter = (high - low) // 4
        a, b, c = low + quarter, low + (high - low) // 2, high - 1 - quarter
        up_to_a, up_to_b = tl.zeros((KEPT,), tl.int32), tl.zeros((KEPT,), tl.int32)
        up_to_c = tl.zeros((KEPT,), tl.int32)
        for first in range(0, kept, KEPT):
            place = first + tl.arange(0, KEPT)
            bits = tl.load(values + place, mask=place < kept, other=LAST)
            up_to_a += (bits <= a).to(tl.int32)
            up_to_b += (bits <= b).to(tl.int32)
            up_to_c += (bits <= c).to(tl.int32)
        in_a, in_b, in_c = tl.sum(up_to_a, 0) > rank, tl.sum(up_to_b, 0) > rank, tl.sum(up_to_c, 0) > rank
        low = tl.where(in_a, low, tl.where(in_b, a + 1, tl.where(in_c, b + 1, c + 1)))
        high = tl.where(in_a, a, tl.where(in_b, b, tl.where(in_c, c, high)))
    return low


@triton.jit
def _after(
    values: tl.tensor, kept: tl.tensor, pattern: tl.tensor, LAST: tl.constexpr, KEPT: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """How many of the kept patterns are at most a pattern, and the lowest above it."""
    counts, lowest = tl.zeros((KEPT,), tl.int32), tl.full((KEPT,), LAST, tl.int32)
    for first in range(0, kept, KEPT):
        place = first + tl.arange(0, KEPT)
        bits = tl.load(values + place, mask=place < kept, other=LAST)
        counts += (bits <= pattern).to(tl.int32)
        lowest = tl.minimum(lowest, tl.where(bits > pattern, bits, LAST))
    return tl.sum(counts, 0), tl.min(lowest, 0)
