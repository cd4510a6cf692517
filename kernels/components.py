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

#: Number of words of the rows that are read at once.
_TILE = 8192


def dbscan(
    words: Tensor,
    degrees: Tensor,
    counts: Tensor,
    fraction: float,
    order: Tensor,
    labels: Tensor,
    rows: int | None = None,
) -> Tensor:
    """Clusters the channels of each image.

    Launch: one program for each image; its loops end when no core channel without a cluster is left.

    Args:
        words: (B,N,⌈N/32⌉) int32, bit rows as `neighbours.neighbours` returns them.
        degrees: (B,N) int32, numbers of neighbours, likewise.
        counts: (B,) int32, numbers of rows that hold a channel.
        fraction: this share of the channels, rounded down and at least 2, makes a channel core.
        order: (B,N) int32, each row's column of `labels`.
        labels: (B,C) int64; the labels of the channels in a cluster are written, others stay.
        rows: number of rows read at once, a power of two; None: `_TILE` words.

    Returns:
        The number of clusters (B,) int64.
    """
    b, n, n_words = words.shape
    padded = triton.next_power_of_2(n_words)
    rows = rows or max(1, min(_TILE // padded, triton.next_power_of_2(n)))
    n_clusters = torch.empty(b, dtype=torch.int64, device=words.device)
    frontier = words.new_empty(b, n_words)
    _dbscan[(b,)](
        words, degrees, counts, order, frontier, labels, n_clusters,
        n, n_words, labels.shape[1], fraction, padded, rows,
    )  # fmt: skip
    return n_clusters


@triton.jit
def _dbscan(
    words: tl.tensor,
    degrees: tl.tensor,
    counts: tl.tensor,
    order: tl.tensor,
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
    point = word[:, None] * 32 + tl.arange(0, 32)[None, :]
    count = tl.load(counts + image)
    # In float64, as the references compute it.
    minimum = tl.maximum((count.to(tl.float64) * FRACTION).to(tl.int32), 2)
    degree = tl.load(degrees + image * n + point, mask=point < n, other=0)
    core = _pack(degree >= minimum)
    free = _pack(point < n)
    frontier_words = frontiers + image * n_words
    cluster = 0
    seed = _lowest(core & free, point, n)
    while seed < n:
        frontier = _pack(point == seed)
        while tl.max((frontier != 0).to(tl.int32), 0) > 0:
            tl.store(frontier_words + word, frontier, mask=word < n_words)
            tl.debug_barrier()
            reached = _union(words + image * n * n_words, frontier_words, word, n, n_words, WORDS, ROWS)
            tl.debug_barrier()
            joined = reached & free
            member = _unpack(joined) & (point < n)
            channel = tl.load(order + image * n + point, mask=member, other=0)
            tl.store(labels + image * channels + channel, cluster, mask=member)
            free = free & ~joined
            frontier = joined & core
        cluster += 1
        seed = _lowest(core & free, point, n)
    tl.store(n_clusters + image, cluster)


@triton.jit
def _union(
    rows: tl.tensor,
    frontier: tl.tensor,
    word: tl.tensor,
    n: tl.tensor,
    n_words: tl.tensor,
    WORDS: tl.constexpr,
    ROWS: tl.constexpr,
) -> tl.tensor:
    """OR (WORDS,) of the rows whose bit is set in the frontier's words in memory."""
    reached = tl.zeros((WORDS,), tl.int32)
    for start in range(0, n, ROWS):
        row = start + tl.arange(0, ROWS)
        active = (tl.load(frontier + row // 32, mask=row < n, other=0) >> (row % 32)) & 1
        if tl.max(active, 0) > 0:
            wanted = (active[:, None] != 0) & (word[None, :] < n_words)
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
