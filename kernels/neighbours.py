"""Which channels lie within eps of each other, one bit a pair, with eps the percentile of their distances.

PyTorch reference: `cfcam_gpu.cfcam.clustering.distance_percentile` and the comparison in `dbscan`.

Mathematics. Channels i and j are neighbours when √d² ≤ t, both in float32, with the d² of
`distances.squared_distances` and t = eps·(1 + slack) rounded to float32. In one pass over the pairs those below
the sampled interval become neighbours at once, since eps cannot be smaller, and those inside it are kept with
their d². From these come eps, and with it the rest of the neighbours.

Least work: 2·D operations for each of N(N+1)/2 pairs; N²/8 bytes written for each image, 16 bytes for each kept
pair.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .distances import (
    LAST,
    TILE,
    TILE_WARPS,
    between,
    position,
    sampled_interval,
    select,
    squared_distances,
    squared_limit,
    tile_columns,
    tile_pair,
    tile_pairs,
    tile_rows,
)

#: Logarithm of the number of parts into which `_exact` cuts an interval.
LOG2_BINS = 11

#: Programs for each image that mark the kept pairs, and the number of pairs that each reads at once.
_MARKERS = 8
_MARKED = 1024

#: All pairs of this many channels may be kept, of more channels an eighth; some five percent are.
_ALL_KEPT = 256

#: Channels up to which a pair's places fit into 32 bits.
MOST_CHANNELS = 65_535


def neighbours(
    columns: Tensor,
    counts: Tensor,
    percentile: float,
    floor: float,
    slack: float,
    n: int,
    capacity: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The percentile of each image's distances, and each channel's neighbours, itself included, as a row of bits.

    Launches: two for the sample, a program for each tile of pairs, one for each image that selects the percentile,
    `_MARKERS` for each image that mark the kept pairs, and one for each image that searches again where the
    percentile was not among them; for other images it ends at once.

    Args:
        columns: (B,D,M) float32, finite: the features of the channels, transposed as `channels.columns` does.
        counts: (B,) int32, numbers of channels.
        percentile: 0 to 100, of the off-diagonal distances, NumPy's linear interpolation.
        floor: the smallest eps, and the eps of an image with fewer than two channels.
        slack: a neighbour may lie this much further away than eps, relative to eps.
        n: N, the number of rows of each image, at most `MOST_CHANNELS`.
        capacity: number of pairs that can be kept; None: by `_ALL_KEPT`.

    Returns:
        words (B,M,M/32) int32, rows of bits in the order of `bit_place`, defined for the first `counts` rows and
        as many channels; eps (B,) float64.
    """
    if n > MOST_CHANNELS:
        raise ValueError(
            f"at most {MOST_CHANNELS} channels can be clustered here, got {n}; use engine='torch'"
        )
    b, depth, padded = columns.shape
    words = torch.empty(b, padded, padded // 32, dtype=torch.int32, device=columns.device)
    capacity = capacity or max(n * (n - 1) // (2 if n <= _ALL_KEPT else 16), 1)
    patterns, places = torch.empty(2, b, capacity, dtype=torch.int32, device=columns.device).unbind(0)
    interval = sampled_interval(columns, counts, percentile, floor)
    start, end, below, kept = interval
    pairs = tile_pairs(padded // TILE)
    _pairs[(b * pairs,)](
        columns, counts, start, end, below, kept, words.view(torch.uint8), patterns, places,
        capacity, pairs, padded, depth, num_warps=TILE_WARPS,
    )  # fmt: skip
    factor = 1 + slack
    eps, limit = select(patterns, counts, interval, percentile, floor, factor)
    _mark[(b * _MARKERS,)](patterns, places, kept, limit, words, padded, capacity, _MARKERS, _MARKED)
    bins = words.new_empty(b, 2**LOG2_BINS)
    _exact[(b,)](
        columns, counts, limit, bins, words.view(torch.uint8), eps, padded, depth,
        percentile / 100, floor, factor, LOG2_BINS, LAST, num_warps=TILE_WARPS,
    )  # fmt: skip
    return words, eps


@triton.jit
def bit_place(channel: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """The word of a row of bits that holds a channel, and its bit.

    The 8 bits of a byte are channels 16 apart, those that one thread compares in a tile: it writes the byte.
    """
    lane = channel % 16
    return channel // 128 * 4 + lane // 4, lane % 4 * 8 + channel % 128 // 16


@triton.jit
def channel_at(word: tl.tensor, bit: tl.tensor) -> tl.tensor:
    """The channel that a word of a row of bits holds at a bit."""
    return word // 4 * 128 + bit % 8 * 16 + word % 4 * 4 + bit // 8


@triton.jit
def _pairs(
    columns: tl.tensor,
    counts: tl.tensor,
    starts: tl.tensor,
    ends: tl.tensor,
    below: tl.tensor,
    kept: tl.tensor,
    row_bytes: tl.tensor,
    patterns: tl.tensor,
    places: tl.tensor,
    capacity: tl.tensor,
    pairs: tl.tensor,
    padded: tl.tensor,
    depth: tl.tensor,
) -> None:
    """Writes the bits of a tile, and of its mirror image, of the pairs below the interval; keeps those inside."""
    row, column = tile_pair(tl.program_id(0) % pairs)
    image = (tl.program_id(0) // pairs).to(tl.int64)
    count = tl.load(counts + image)
    if column * 128 < count:
        bits = squared_distances(columns + image * depth * padded, row, column, padded, depth)
        start = tl.load(starts + image)
        certain = (bits - start) >> 31
        number = -tl.sum(certain)
        if row == column:  # each pair stands there twice, and each channel beside itself
            number = (number - tl.minimum(count - row * 128, 128)) // 2
        tl.atomic_add(below + image, number, sem="relaxed")
        _write(certain, row, column, row_bytes + image * padded * (padded // 8), padded)
        i, j = tile_rows(row), tile_columns(column)
        if row == column:
            bits = tl.where(i < j, bits, 0x7FFFFFFF)
        width = (tl.load(ends + image) - start).to(tl.uint32, bitcast=True)
        inside = ((bits - start).to(tl.uint32, bitcast=True) < width).to(tl.int32)
        index, total = _numbered(inside)
        first = tl.atomic_add(kept + image, total, sem="relaxed")
        if first + total <= capacity:
            index += first
            tl.store(patterns + image * capacity + index, bits, mask=inside != 0)
            tl.store(places + image * capacity + index, (i << 16) | j, mask=inside != 0)


@triton.jit
def _numbered(flags: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """The number of flags set before each one of a tile (8,8,16,16), in some order, and of all.

    The first two axes are a thread's registers, which are added up there; then the threads.
    """
    in_row = tl.cumsum(flags, 1)
    rows = tl.sum(flags, 1)
    before_row = tl.cumsum(rows, 0) - rows
    threads = tl.reshape(tl.sum(rows, 0), (256,))
    before_thread = tl.reshape(tl.cumsum(threads, 0) - threads, (16, 16))
    index = in_row - flags + before_row[:, None, :, :] + before_thread[None, None, :, :]
    return index, tl.sum(threads, 0)


@triton.jit
def _write(
    near: tl.tensor, row: tl.tensor, column: tl.tensor, row_bytes: tl.tensor, padded: tl.tensor
) -> None:
    """Stores a tile's flags (8,8,16,16), 0 or -1, as bits, and those of its mirror image below the diagonal."""
    register, lane = tl.arange(0, 8), tl.arange(0, 16)
    # Rows of the tile: the bits of a byte are its eight registers along the columns.
    packed = tl.sum(near & (1 << register)[None, :, None, None], 1)
    i = row * 128 + register[:, None, None] * 16 + lane[None, :, None]
    tl.store(row_bytes + i * (padded // 8) + column * 16 + lane[None, None, :], packed.to(tl.uint8))
    if row < column:
        packed = tl.sum(near & (1 << register)[:, None, None, None], 0)
        j = column * 128 + register[:, None, None] * 16 + lane[None, None, :]
        tl.store(row_bytes + j * (padded // 8) + row * 16 + lane[None, :, None], packed.to(tl.uint8))


@triton.jit
def _mark(
    patterns: tl.tensor,
    places: tl.tensor,
    kept: tl.tensor,
    limits: tl.tensor,
    words: tl.tensor,
    padded: tl.tensor,
    capacity: tl.tensor,
    MARKERS: tl.constexpr,
    MARKED: tl.constexpr,
) -> None:
    """Sets the bits of one program's share of the kept pairs that are neighbours."""
    image = (tl.program_id(0) // MARKERS).to(tl.int64)
    limit = tl.load(limits + image)
    if limit >= 0:
        total = tl.load(kept + image)
        rows = words + image * padded * (padded // 32)
        for first in range(tl.program_id(0) % MARKERS * MARKED, total, MARKERS * MARKED):
            index = first + tl.arange(0, MARKED)
            bits = tl.load(patterns + image * capacity + index, mask=index < total, other=0x7FFFFFFF)
            near = bits <= limit
            place = tl.load(places + image * capacity + index, mask=near, other=0)
            i, j = (place >> 16) & 0xFFFF, place & 0xFFFF
            word, bit = bit_place(j)
            tl.atomic_or(rows + i * (padded // 32) + word, 1 << bit, mask=near, sem="relaxed")
            word, bit = bit_place(i)
            tl.atomic_or(rows + j * (padded // 32) + word, 1 << bit, mask=near, sem="relaxed")


@triton.jit
def _exact(
    columns: tl.tensor,
    counts: tl.tensor,
    limits: tl.tensor,
    bins: tl.tensor,
    row_bytes: tl.tensor,
    eps: tl.tensor,
    padded: tl.tensor,
    depth: tl.tensor,
    POSITION: tl.constexpr,
    FLOOR: tl.constexpr,
    FACTOR: tl.constexpr,
    LOG2_BINS: tl.constexpr,
    LAST: tl.constexpr,
) -> None:
    """eps and words of an image whose percentile was not among the kept pairs, from all bit patterns.

    Three times the interval is cut into 2^LOG2_BINS parts, and the part that holds the rank is the next.
    """
    image = tl.program_id(0).to(tl.int64)
    if tl.load(limits + image) < 0:
        rank, second, fraction = position(tl.load(counts + image), POSITION)
        tiles = padded // 128
        column_data, histogram = columns + image * depth * padded, bins + (image << LOG2_BINS)
        part = tl.arange(0, 1 << LOG2_BINS)
        low, width, before, following = 0, 31 - LOG2_BINS, 0, LAST
        while width >= 0:
            tl.store(histogram + part, 0)
            tl.debug_barrier()
            above = LAST
            # A row of tiles without a channel has only NaN.
            for column in range(tiles):
                for row in range(column + 1):
                    bits = squared_distances(column_data, row, column, padded, depth)
                    # Entries that are no pair come last in the order, behind every rank.
                    pair = (tile_rows(row) < tile_columns(column)) & (bits < LAST)
                    bits = tl.where(pair, bits, LAST)
                    place = (bits - low) >> width
                    inside = (bits >= low) & (place < (1 << LOG2_BINS)) & (bits < LAST)
                    # Most equal distances are 0: the tile adds these up first, since atomic additions to
                    # one address wait for each other.
                    zeros = inside & (place == 0)
                    tl.atomic_add(histogram, tl.sum(zeros.to(tl.int32)), sem="relaxed")
                    tl.atomic_add(histogram + place, 1, mask=inside & (place > 0), sem="relaxed")
                    beyond = (bits >= low) & (place >= (1 << LOG2_BINS))
                    above = tl.minimum(above, tl.min(tl.where(beyond, bits, LAST)))
            tl.debug_barrier()
            counted = tl.load(histogram + part)
            tl.debug_barrier()
            reached = before + tl.cumsum(counted, 0)
            chosen = tl.sum((reached <= rank).to(tl.int32), 0)
            before += tl.sum(tl.where(part < chosen, counted, 0), 0)
            enough = tl.sum(((part == chosen) & (reached > second)).to(tl.int32), 0) > 0
            later = tl.min(tl.where((part > chosen) & (counted > 0), low + part, LAST), 0)
            low += chosen << width
            following = tl.where(enough, low, tl.minimum(later, above))
            width = tl.where(width == 0, -1, tl.maximum(width - LOG2_BINS, 0))
        found = between(low, following, fraction, FLOOR)
        tl.store(eps + image, found)
        limit = squared_limit(found, FACTOR).to(tl.int32, bitcast=True)
        for column in range(tiles):
            for row in range(column + 1):
                bits = squared_distances(column_data, row, column, padded, depth)
                near = (bits - limit - 1) >> 31
                _write(near, row, column, row_bytes + image * padded * (padded // 8), padded)
