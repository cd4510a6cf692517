"""Clustering of the channels, compiled for the CPU with Numba: the labels of `scan_in_chunks`, many times faster.

Importing this module imports Numba. Each thread takes a slice of the batch and goes through its
images in compiled code, without the interpreter's lock. For one image of N channels with D values:

1. squared distances of the N(N-1)/2 pairs by direct differencing, in float32: N²·D/2 subtractions
   and multiply-adds, the largest part;
2. two order statistics of them: a sample gives an interval that should hold both; one pass counts
   the distances below the interval and keeps those inside, and only these are searched;
3. the neighbours of each channel as a row of bits;
4. a search over those rows, which reads each core channel's row once and finds the clusters in the
   order of their lowest core index, as scikit-learn does.
"""

from __future__ import annotations

from _thread import start_new_thread
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from cfcam_gpu.config import EPS_FLOOR, EPS_SLACK, NOISE, CFCAMConfig

#: Number of pairs in the sample, and half the interval's width in standard deviations of a sampled rank.
SAMPLE = 8192
_SIGMAS = 4.0
#: So many features are summed in float32 before they are added to the total: rounding then does not grow
#: with the layer's resolution.
_FEATURE_BLOCK = 64


def scan_compiled(features: Tensor, valid: Tensor, config: CFCAMConfig) -> tuple[Tensor, Tensor, Tensor]:
    """`clustering.Scan` for tensors in the CPU's memory; PyTorch's number of threads share the images."""
    x, counts = features.contiguous().numpy(), valid.sum(1).numpy()
    labels = np.full(x.shape[:2], NOISE, dtype=np.int64)
    n_clusters, eps = np.zeros(len(x), dtype=np.int64), np.full(len(x), EPS_FLOOR)
    threads = max(1, min(torch.get_num_threads(), len(x)))
    slices = [slice(t * len(x) // threads, (t + 1) * len(x) // threads) for t in range(threads)]

    def work(part: slice) -> None:
        _scan_images(
            x[part], counts[part], config.eps_percentile, config.min_samples_fraction,
            labels[part], n_clusters[part], eps[part],
        )  # fmt: skip

    _in_threads(work, slices)
    return torch.from_numpy(labels), torch.from_numpy(n_clusters), torch.from_numpy(eps)


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


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, compiled at its first call; the result is cached on disk where a folder can be written."""
    try:
        return numba.njit(nogil=True, cache=True, boundscheck=False)(function)
    except RuntimeError:  # Numba can write neither to the package's folder nor to the user's cache
        return numba.njit(nogil=True, boundscheck=False)(function)


@_compiled
def _scan_images(x, counts, percentile, fraction, labels, n_clusters, eps):  # type: ignore[no-untyped-def]
    """Labels, cluster count and eps of images x (B,N,D), of which the first counts[b] rows hold channels."""
    most = x.shape[1]
    pairs = np.empty(max(1, most * (most - 1) // 2), np.float32)
    kept = np.empty(pairs.size, np.float32)
    rows = np.empty((most, (most + 63) // 64), np.uint64)
    for b in range(x.shape[0]):
        n = counts[b]
        if n < 2:
            continue
        squared = pairs[: n * (n - 1) // 2]
        _squared_distances(x[b, :n], squared)
        eps[b] = max(_percentile(squared, n, percentile, kept), EPS_FLOOR)
        radius = eps[b] * (1 + EPS_SLACK)
        _neighbour_bits(squared, n, np.float32(radius * radius), rows)
        minimum = max(2, int(fraction * n))
        n_clusters[b] = _search(rows, n, minimum, labels[b])


@_compiled
def _squared_distances(x, squared):  # type: ignore[no-untyped-def]
    """Squared distances of the pairs i < j of the rows of x (n,D), in the order (0,1), (0,2), …, (1,2), …"""
    n, depth = x.shape
    columns = np.ascontiguousarray(x.T)
    block = np.empty(n, np.float32)
    start = 0
    for i in range(n - 1):
        size = n - 1 - i
        row = squared[start : start + size]
        row[:] = np.float32(0)
        for low in range(0, depth, _FEATURE_BLOCK):
            high = min(low + _FEATURE_BLOCK, depth)
            part = block[:size]
            part[:] = np.float32(0)
            # Four features at a time: the sums are then loaded and stored a quarter as often.
            for d in range(low, high - 3, 4):
                c0, c1 = columns[d, i + 1 : n], columns[d + 1, i + 1 : n]
                c2, c3 = columns[d + 2, i + 1 : n], columns[d + 3, i + 1 : n]
                a0, a1, a2, a3 = columns[d, i], columns[d + 1, i], columns[d + 2, i], columns[d + 3, i]
                for j in range(size):
                    t0, t1, t2, t3 = c0[j] - a0, c1[j] - a1, c2[j] - a2, c3[j] - a3
                    part[j] += (t0 * t0 + t1 * t1) + (t2 * t2 + t3 * t3)
            for d in range(high - (high - low) % 4, high):
                c0, a0 = columns[d, i + 1 : n], columns[d, i]
                for j in range(size):
                    t0 = c0[j] - a0
                    part[j] += t0 * t0
            for j in range(size):
                row[j] += part[j]
        start += size


@_compiled
def _percentile(squared, n, percentile, kept):  # type: ignore[no-untyped-def]
    """The percentile (NumPy's, linear) of the off-diagonal distances of n channels.

    squared: squared distances of the pairs, float32; kept: scratch memory of the same size.
    """
    position = (n * (n - 1) - 1) * (percentile / 100)
    whole = int(np.floor(position))
    low_rank, high_rank = whole // 2, min(whole + 1, n * (n - 1) - 1) // 2
    below, inside = _interval(squared, low_rank, kept)
    if not (below <= low_rank and high_rank < below + inside):  # the interval does not hold both ranks
        for k in range(squared.size):
            kept[k] = squared[k]
        below, inside = 0, squared.size
    low = _select(kept[:inside], low_rank - below)
    high = low
    if high_rank > low_rank:
        high = kept[high_rank - below]
        for k in range(high_rank - below, inside):
            high = min(high, kept[k])
    low, high = np.sqrt(np.float64(low)), np.sqrt(np.float64(high))
    return low + (high - low) * (position - whole)


@_compiled
def _interval(squared, rank, kept):  # type: ignore[no-untyped-def]
    """How many values lie below an interval around the rank, and how many inside; these are copied to `kept`.

    `kept` is as large as `squared`.
    """
    m = squared.size
    size = min(SAMPLE, m)
    sample = np.empty(size, np.float32)
    stride = m / size
    for s in range(size):
        sample[s] = squared[int(s * stride)]
    share = rank / m
    middle, margin = share * size, _SIGMAS * np.sqrt(size * share * (1 - share)) + 2
    first, last = int(middle - margin), int(middle + margin) + 1
    high = _select(sample, last) if last < size else np.float32(np.inf)
    low = _select(sample, first) if first > 0 else np.float32(0)
    below, inside = 0, 0
    for value in squared:
        kept[inside] = value
        inside += (value >= low) & (value <= high)
        below += value < low
    return below, inside


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
def _neighbour_bits(squared, n, limit, rows):  # type: ignore[no-untyped-def]
    """Sets bit j of row i, rows (n, ceil(n/64)) uint64, where channels i and j are neighbours or the same."""
    one = np.uint64(1)
    rows[:n] = 0
    start = 0
    for i in range(n):
        rows[i, i >> 6] |= one << np.uint64(i & 63)
        word, bit = i >> 6, np.uint64(i & 63)
        for j in range(i + 1, n):
            hit = np.uint64(squared[start + j - i - 1] <= limit)
            rows[i, j >> 6] |= hit << np.uint64(j & 63)
            rows[j, word] |= hit << bit
        start += n - 1 - i


@_compiled
def _search(rows, n, minimum, labels):  # type: ignore[no-untyped-def]
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
