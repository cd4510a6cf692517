"""DBSCAN's clusters from the bit rows of the neighbours, with the labels that scikit-learn gives.

PyTorch reference: `cfcam_gpu.cfcam.clustering.dbscan` and `connected_components`.

Mathematics. A channel with at least `minimum` neighbours is core. The lowest core channel without a
cluster starts one, and a breadth-first search over core channels grows it: the OR of the rows of the
frontier gives the channels that are reached; those without a cluster join this one, and the core
channels among them are the next frontier. So clusters are numbered by their lowest core channel, and
a border channel joins the lowest-numbered cluster next to it.

Least work: every core row is read once, N²/8 bytes an image, and one OR handles 32 channels. Real
channels have many neighbours: a search ends after 2 to 5 steps for an image.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .neighbours import bit_place, channel_at

#: Number of words of the rows that are read at once.
_TILE = 8192


def dbscan(
    words: Tensor,
    counts: Tensor,
    fraction: float,
    order: Tensor,
    labels: Tensor,
    rows: int | None = None,
) -> Tensor:
    """Clusters the channels of each image.

    Launch: one program for each image; its loops end when no core channel without a cluster is left.

    Args:
        words: (B,M,M/32) int32, bit rows as `neighbours.neighbours` returns them.
        counts: (B,) int32, numbers of rows that hold a channel.
        fraction: this share of the channels, rounded down and at least 2, makes a channel core.
        order: (B,N) int32, each row's column of `labels`.
        labels: (B,C) int64; the labels of the channels in a cluster are written, others stay.
        rows: number of rows read at once, a power of two; None: `_TILE` words.

    Returns:
        The number of clusters (B,) int64.
    """
    b, padded, n_words = words.shape
    n, width = order.shape[1], triton.next_power_of_2(n_words)
    rows = rows or min(_TILE // width, triton.next_power_of_2(n))
    rows = max(1, rows)
    n_clusters = torch.empty(b, dtype=torch.int64, device=words.device)
    degrees, frontier = words.new_empty(b, padded), words.new_empty(b, n_words)
    _dbscan[(b,)](
        words, counts, order, degrees, frontier, labels, n_clusters,
        n, n_words, labels.shape[1], fraction, width, rows,
    )  # fmt: skip
    return n_clusters


@triton.jit
def _dbscan(
    words: tl.tensor,
    counts: tl.tensor,
    order: tl.tensor,
    degrees: tl.tensor,
    frontiers: tl.tensor,
    labels: tl.tensor,
    n_clusters: tl.tensor,
    n: tl.tensor,
    n_words: tl.tensor,
    channels: tl.tensor,
    FRACTION: tl.constexpr,
    WORDS: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    """The searches of one image. A set of channels is a vector (WORDS,) int32 of bits."""
    image = tl.program_id(0).to(tl.int64)
    word = tl.arange(0, WORDS)
    point = channel_at(word[:, None], tl.arange(0, 32)[None, :])
    count = tl.load(counts + image)
    # In float64, as the references compute it.
    minimum = tl.maximum((count.to(tl.float64) * FRACTION).to(tl.int32), 2)
    rows, degree_rows = words + image * n_words * 32 * n_words, degrees + image * n_words * 32
    _count_bits(rows, degree_rows, word, count, n_words, ROWS)
    tl.debug_barrier()
    degree = tl.load(degree_rows + point, mask=point < count, other=0)
    core = _pack(degree >= minimum)
    free = _pack(point < count)
    frontier_words = frontiers + image * n_words
    cluster = 0
    seed = _lowest(core & free, point, count)
    while seed < count:
        frontier = _pack(point == seed)
        while tl.max((frontier != 0).to(tl.int32), 0) > 0:
            tl.store(frontier_words + word, frontier, mask=word < n_words)
            tl.debug_barrier()
            reached = _union(rows, frontier_words, word, count, n_words, WORDS, ROWS)
            tl.debug_barrier()
            joined = reached & free
            member = _unpack(joined) & (point < count)
            channel = tl.load(order + image * n + point, mask=member, other=0)
            tl.store(labels + image * channels + channel, cluster, mask=member)
            free = free & ~joined
            frontier = joined & core
        cluster += 1
        seed = _lowest(core & free, point, count)
    tl.store(n_clusters + image, cluster)


@triton.jit
def _count_bits(
    rows: tl.tensor,
    degrees: tl.tensor,
    word: tl.tensor,
    count: tl.tensor,
    n_words: tl.tensor,
    ROWS: tl.constexpr,
) -> None:
    """Stores the number of bits set in each of the first `count` rows."""
    used = word // 4 * 128 < count
    for start in range(0, count, ROWS):
        row = start + tl.arange(0, ROWS)
        wanted = (row < count)[:, None] & used[None, :]
        bits = tl.load(rows + row[:, None] * n_words + word[None, :], mask=wanted, other=0)
        # The usual sums over pairs, fours and bytes of bits.
        bits = bits - ((bits >> 1) & 0x55555555)
        bits = (bits & 0x33333333) + ((bits >> 2) & 0x33333333)
        bits = (((bits + (bits >> 4)) & 0x0F0F0F0F) * 0x01010101 >> 24) & 0xFF
        tl.store(degrees + row, tl.sum(bits, 1), mask=row < count)


@triton.jit
def _union(
    rows: tl.tensor,
    frontier: tl.tensor,
    word: tl.tensor,
    count: tl.tensor,
    n_words: tl.tensor,
    WORDS: tl.constexpr,
    ROWS: tl.constexpr,
) -> tl.tensor:
    """OR (WORDS,) of the rows whose bit is set in the frontier's words in memory."""
    reached = tl.zeros((WORDS,), tl.int32)
    for start in range(0, count, ROWS):
        row = start + tl.arange(0, ROWS)
        place, bit = bit_place(row)
        active = (tl.load(frontier + place, mask=row < count, other=0) >> bit) & 1
        if tl.max(active, 0) > 0:
            wanted = (active[:, None] != 0) & (word[None, :] // 4 * 128 < count)
            tile = tl.load(rows + row[:, None] * n_words + word[None, :], mask=wanted, other=0)
            reached = reached | tl.reduce(tile, 0, _or)
    return reached


@triton.jit
def _or(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    return a | b


@triton.jit
def _pack(flags: tl.tensor) -> tl.tensor:
    """Flags (WORDS,32) as words (WORDS,)."""
    return tl.sum(flags.to(tl.int32) << tl.arange(0, 32)[None, :], 1)


@triton.jit
def _unpack(bits: tl.tensor) -> tl.tensor:
    """Words (WORDS,) as flags (WORDS,32)."""
    return ((bits[:, None] >> tl.arange(0, 32)[None, :]) & 1) != 0


@triton.jit
def _lowest(bits: tl.tensor, point: tl.tensor, n: tl.tensor) -> tl.tensor:
    """The lowest channel in a set, n for an empty set."""
    return tl.min(tl.min(tl.where(_unpack(bits), point, n), 1), 0)
