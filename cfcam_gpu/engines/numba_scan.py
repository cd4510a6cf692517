"""Clustering of the channels, compiled for the CPU with Numba: the labels of `scan_in_chunks`, many times faster.

Importing this module imports Numba. Each thread takes a slice of the batch and goes through its
images in compiled code, without the interpreter's lock. For one image of N channels with D values:

1. a sample of the pairs gives an interval that should hold the two order statistics which eps lies between;
2. squared distances of the N(N-1)/2 pairs by direct differencing, in float32: N²·D/2 subtractions
   and multiply-adds, the largest part. Two channels' distances at a time, and they are not stored: a pair below
   the interval is a neighbour, which takes one bit, and only those inside are kept;
3. eps from those inside, and which of them are neighbours;
4. a search over the rows of bits, which reads each core channel's row once and finds the clusters in the
   order of their lowest core index, as scikit-learn does.
"""

from __future__ import annotations

import math
from _thread import start_new_thread
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cfcam_gpu.config import EPS_FLOOR, EPS_SLACK, NOISE, CFCAMConfig

#: Number of pairs in the sample, and half the interval's width in standard deviations of a sampled rank.
SAMPLE = 8192
_SIGMAS = 4.0
#: The interval is wider by this share at each end: the sample's sums run in another order, and what lies above eps by
#: rounding alone is a neighbour.
_MARGIN = 1e-5
#: So many features are summed in float32 before they are added to the total: rounding then does not grow
#: with the layer's resolution.
_FEATURE_BLOCK = 64
#: No distance: it is neither below a number nor above it.
_NONE = np.float32(np.nan)


def scan_compiled(features: Tensor, valid: Tensor, config: CFCAMConfig) -> tuple[Tensor, Tensor, Tensor]:
    """`clustering.Scan` for tensors in the CPU's memory; PyTorch's number of threads share the images."""
    x, counts = features.contiguous().numpy(), valid.sum(1).numpy()
    labels = np.full(x.shape[:2], NOISE, dtype=np.int64)
    n_clusters, eps = np.zeros(len(x), dtype=np.int64), np.full(len(x), EPS_FLOOR)
    threads = max(1, min(torch.get_num_threads(), len(x)))
    slices = [slice(t * len(x) // threads, (t + 1) * len(x) // threads) for t in range(threads)]

    def work(part: slice) -> None:
        scratch = Scratch.of(x.shape[1])
        for b in range(part.start, part.stop):
            n = int(counts[b])
            if n >= 2:
                eps[b] = neighbours(x[b, :n], config.eps_percentile, scratch)
                n_clusters[b] = search(scratch.rows, n, config.min_samples(n), labels[b])

    _in_threads(work, slices)
    return torch.from_numpy(labels), torch.from_numpy(n_clusters), torch.from_numpy(eps)


class Scratch(NamedTuple):
    """Memory for one image of at most N channels.

    Attributes:
        rows: (N, ceil(N/64)) uint64: bit j of row i says whether channels i and j are neighbours.
        values, places, starts: of the pairs inside an interval, see `_compare`.
    """

    rows: NDArray[np.uint64]
    values: NDArray[np.float32]
    places: NDArray[np.int32]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, channels: int) -> Scratch:
        """Memory for so many channels; what is not used is only reserved."""
        pairs = max(1, channels * (channels - 1) // 2)
        return cls(
            np.empty((channels, (channels + 63) // 64), np.uint64),
            np.empty(pairs, np.float32),
            np.empty(pairs, np.int32),
            np.empty(channels + 1, np.int64),
        )


def neighbours(x: NDArray[np.float32], percentile: float, scratch: Scratch) -> float:
    """eps of the channels x (n,D), n > 1, and in `scratch.rows` which of them are neighbours.

    eps is the percentile (NumPy's, linear) of the off-diagonal distances, at least `EPS_FLOOR`.
    """
    n = len(x)
    rows, values, places, starts = scratch
    columns = np.ascontiguousarray(x.T)
    entries = n * (n - 1)  # each pair's distance stands there twice
    position = (entries - 1) * (percentile / 100)
    whole = math.floor(position)
    low_rank, high_rank = whole // 2, min(whole + 1, entries - 1) // 2
    eps = limit = 0.0
    for low, high in (_interval(x, low_rank), (0.0, math.inf)):
        below, inside = _compare(columns, low, high, rows, values, places, starts)
        if not (below <= low_rank and high_rank < below + inside):
            continue  # the sample misled: all pairs are inside the second interval
        found = _between(values[:inside].copy(), low_rank - below, high_rank - below, position - whole)
        eps = max(found, EPS_FLOOR)
        limit = float(np.float32((eps * (1 + EPS_SLACK)) ** 2))
        if limit <= high:
            break
    _set_inside(values, places, starts[: n + 1], limit, rows)
    _mirror(rows, n)
    return eps


def _in_threads(work: Callable[[slice], None], slices: Sequence[slice]) -> None:
    """`work` of each slice, of the first one in this thread.

    Starting and waiting are single calls into C: an interrupt between the locks that `threading` and
    `concurrent.futures` keep in Python leaves threads behind that wait for ever.
    """
    ended: SimpleQueue[BaseException | None] = SimpleQueue()

    def in_thread(part: slice) -> None:
        error = None
        try:
            work(part)
        except BaseException as caught:
            error = caught
        ended.put(error)

    for part in slices[1:]:
        start_new_thread(in_thread, (part,))
    work(slices[0])
    for error in [ended.get() for _ in slices[1:]]:
        if error is not None:
            raise error


def _compiled(function: Callable[..., Any], *fastmath: str) -> Callable[..., Any]:
    """The function, compiled at its first call; the result is cached on disk where a folder can be written."""
    options: dict[str, Any] = {"nogil": True, "boundscheck": False, "fastmath": set(fastmath)}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # Numba can write neither to the package's folder nor to the user's cache
        return numba.njit(**options)(function)


def _fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """As `_compiled`; a product and a sum may be one operation with one rounding."""
    return _compiled(function, "contract")


def _reordered(function: Callable[..., Any]) -> Callable[..., Any]:
    """As `_fused`; sums may run in any order."""
    return _compiled(function, "contract", "reassoc")


@_reordered
def _interval(x, rank):  # type: ignore[no-untyped-def]
    """Two squared distances between which that of a rank should lie, from a sample of the pairs of x (n,D)."""
    n, depth = x.shape
    pairs = n * (n - 1) // 2
    size = min(SAMPLE, pairs)
    sample = np.empty(size, np.float32)
    i, start = 0, 0  # the pairs (i, i+1), (i, i+2), … begin at number `start`
    for s in range(size):
        pair = s * pairs // size
        while pair >= start + n - 1 - i:
            start += n - 1 - i
            i += 1
        a, b = x[i], x[i + 1 + pair - start]
        total = np.float32(0)
        for d in range(depth):
            t = a[d] - b[d]
            total += t * t
        sample[s] = total
    share = rank / pairs
    middle, margin = share * size, _SIGMAS * np.sqrt(size * share * (1 - share)) + 2
    first, last = int(middle - margin), int(middle + margin) + 1
    high = np.float32(np.inf)
    if last < size:
        high = np.float32(max(_select(sample, last), EPS_FLOOR * EPS_FLOOR) * (1 + _MARGIN))
    low = np.float32(_select(sample, first) * (1 - _MARGIN)) if first > 0 else np.float32(0)
    return low, high


@_compiled
def _compare(columns, low, high, rows, values, places, starts):  # type: ignore[no-untyped-def]
    """How many squared distances of the columns (D,n) lie below an interval, and how many inside.

    Bit j of rows[i], i < j, is set where the distance lies below. Those inside are written to `values`, and their j to
    `places`; row i's are from starts[i] to starts[i+1].
    """
    low, high = np.float32(low), np.float32(high)
    depth, n = columns.shape
    words = (n + 63) // 64
    p, q = np.full(64 * words, _NONE), np.full(64 * words, _NONE)
    part_p, part_q = np.empty(n, np.float32), np.empty(n, np.float32)
    is_below, is_inside = np.zeros(64 * words, np.bool_), np.zeros(64 * words, np.bool_)
    below, inside = 0, 0
    for i in range(0, n, 2):
        first = (i + 1) & ~7  # where a vector register begins
        for j in range(first, n):
            p[j] = q[j] = 0
        for d in range(0, depth, _FEATURE_BLOCK):
            _squares(columns, d, min(depth, d + _FEATURE_BLOCK), i, min(i + 1, n - 1), first, part_p, part_q)
            for j in range(first, n):
                p[j] += part_p[j]
                q[j] += part_q[j]
        for k in range(i, min(i + 2, n)):
            distances = p if k == i else q
            word = k >> 6
            for j in range(64 * word, k + 1):
                distances[j] = _NONE
            for w in range(word):
                rows[k, w] = 0
            starts[k] = inside
            for j in range(64 * word, 64 * words):
                is_below[j] = distances[j] < low
                is_inside[j] = (distances[j] >= low) & (distances[j] <= high)
            for w in range(word, words):
                bits = _packed(is_below, w)
                rows[k, w] = bits
                below += _popcount(bits)
                bits = _packed(is_inside, w)
                while bits:
                    lowest = bits & (~bits + np.uint64(1))
                    j = (w << 6) + _popcount(lowest - np.uint64(1))
                    bits ^= lowest
                    values[inside], places[inside] = distances[j], j
                    inside += 1
    starts[n] = inside
    return below, inside


@_fused
def _squares(columns, low, high, i, k, first, p, q):  # type: ignore[no-untyped-def]
    """Squared distances, from features low to high, of columns i and k from those from `first` on.

    Four features at a time: the sums are then loaded and stored a quarter as often. Both rows at a time: each column
    is loaded half as often.
    """
    n = columns.shape[1]
    to_i, to_k = p[first:n], q[first:n]
    size = n - first
    for j in range(size):
        to_i[j] = to_k[j] = 0
    for d in range(low, high - 3, 4):
        c0, c1, c2, c3 = (
            columns[d, first:],
            columns[d + 1, first:],
            columns[d + 2, first:],
            columns[d + 3, first:],
        )
        a0, a1, a2, a3 = columns[d, i], columns[d + 1, i], columns[d + 2, i], columns[d + 3, i]
        b0, b1, b2, b3 = columns[d, k], columns[d + 1, k], columns[d + 2, k], columns[d + 3, k]
        for j in range(size):
            t0, t1, t2, t3 = c0[j] - a0, c1[j] - a1, c2[j] - a2, c3[j] - a3
            to_i[j] = (((to_i[j] + t0 * t0) + t1 * t1) + t2 * t2) + t3 * t3
            u0, u1, u2, u3 = c0[j] - b0, c1[j] - b1, c2[j] - b2, c3[j] - b3
            to_k[j] = (((to_k[j] + u0 * u0) + u1 * u1) + u2 * u2) + u3 * u3
    for d in range(high - (high - low) % 4, high):
        c0, a0, b0 = columns[d, first:], columns[d, i], columns[d, k]
        for j in range(size):
            t0, u0 = c0[j] - a0, c0[j] - b0
            to_i[j] += t0 * t0
            to_k[j] += u0 * u0


@_compiled
def _packed(flags, w):  # type: ignore[no-untyped-def]
    """Word w of the flags as 64 bits."""
    eights = flags.view(np.uint64)[8 * w : 8 * w + 8]
    bits = np.uint64(0)
    for k in range(8):
        # Each byte is 0 or 1: the product moves byte m's to bit 56 + m.
        byte = (eights[k] * np.uint64(0x0102040810204080)) >> np.uint64(56)
        bits |= byte << np.uint64(8 * k)
    return bits


@_compiled
def _between(values, low_rank, high_rank, fraction):  # type: ignore[no-untyped-def]
    """The distance between those of two ranks, the same or neighbours, of squared distances; reorders these."""
    low = _select(values, low_rank)
    high = low
    if high_rank > low_rank:
        high = values[high_rank]
        for k in range(high_rank, values.size):
            high = min(high, values[k])
    low, high = np.sqrt(np.float64(low)), np.sqrt(np.float64(high))
    return low + (high - low) * fraction


@_compiled
def _set_inside(values, places, starts, limit, rows):  # type: ignore[no-untyped-def]
    """Sets the bits of the pairs inside the interval whose squared distance is at most `limit`, and the diagonal's."""
    limit = np.float32(limit)
    for i in range(starts.size - 1):
        rows[i, i >> 6] |= np.uint64(1) << np.uint64(i & 63)
        for k in range(starts[i], starts[i + 1]):
            j = places[k]
            rows[i, j >> 6] |= np.uint64(values[k] <= limit) << np.uint64(j & 63)


@_compiled
def _mirror(rows, n):  # type: ignore[no-untyped-def]
    """Sets bit i of rows[j] where bit j of rows[i] is set, i < j; by blocks of 64 × 64."""
    block = np.empty(64, np.uint64)
    for w in range((n + 63) // 64):
        for v in range(w + 1):
            for k in range(64):
                block[k] = rows[64 * v + k, w] if 64 * v + k < n else np.uint64(0)
            _transpose(block)
            for k in range(min(64, n - 64 * w)):
                rows[64 * w + k, v] |= block[k]


@_compiled
def _transpose(block):  # type: ignore[no-untyped-def]
    """Swaps rows and columns of 64 × 64 bits: halves, quarters, … (Warren, Hacker's Delight, section 7-3)."""
    size, mask = 32, np.uint64(0x00000000FFFFFFFF)
    while size:
        k = 0
        while k < 64:
            shift = np.uint64(size)
            swapped = ((block[k] >> shift) ^ block[k + size]) & mask
            block[k] ^= swapped << shift
            block[k + size] ^= swapped
            k = (k + size + 1) & ~size
        size >>= 1
        mask ^= mask << np.uint64(size)


@_compiled
def _select(values, rank):  # type: ignore[no-untyped-def]
    """The value at a rank, by Hoare's selection. Reorders the values: none behind the rank is smaller.

    NumPy's partition does the same, but takes Numba seconds to compile.
    """
    first, last = 0, values.size - 1
    while first < last:
        a, b, c = values[first], values[(first + last) // 2], values[last]
        pivot = max(min(a, b), min(max(a, b), c))
        i, j = first, last
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if rank <= j:
            last = j
        elif rank >= i:
            first = i
        else:
            break
    return values[rank]


@_compiled
def search(rows, n, minimum, labels):  # type: ignore[no-untyped-def]
    """Writes DBSCAN's labels from the rows of bits, over labels that are all noise; returns the number of clusters."""
    words = (n + 63) // 64
    core = np.zeros(n, np.bool_)
    open_bits = np.zeros(words, np.uint64)
    for i in range(n):
        count = 0
        for w in range(words):
            count += _popcount(rows[i, w])
        core[i] = count >= minimum
        open_bits[i >> 6] |= np.uint64(1) << np.uint64(i & 63)
    stack = np.empty(n, np.int64)
    clusters = 0
    for seed in range(n):
        if not core[seed] or labels[seed] >= 0:
            continue
        labels[seed] = clusters
        open_bits[seed >> 6] &= ~(np.uint64(1) << np.uint64(seed & 63))
        stack[0], height = seed, 1
        while height > 0:
            height -= 1
            point = stack[height]
            for w in range(words):
                joined = rows[point, w] & open_bits[w]
                open_bits[w] &= ~joined
                while joined:
                    lowest = joined & (~joined + np.uint64(1))
                    other = (w << 6) + _popcount(lowest - np.uint64(1))
                    joined ^= lowest
                    labels[other] = clusters
                    if core[other]:
                        stack[height] = other
                        height += 1
        clusters += 1
    return clusters


@_compiled
def _popcount(word):  # type: ignore[no-untyped-def]
    """Number of bits set in a uint64."""
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))
