"""Clustering of the channels, compiled for the CPU with Numba: the labels of `scan_in_chunks`, many times faster.

Importing this module imports Numba. Each thread takes a slice of the batch and goes through its
images in compiled code, without the interpreter's lock. For one image of N channels with D values:

1. channels that are zero everywhere, often most of a trained model's, are one point of that many;
2. a sample of the pairs gives an interval that should hold the two order statistics which eps lies between;
3. squared distances of the N(N-1)/2 pairs by direct differencing, in float32: N²·D/2 subtractions
   and multiply-adds, the largest part. Two channels' distances at a time, and they are not stored: a pair below
   the interval is a neighbour, which takes one bit, and only those inside are kept;
4. eps from those inside, and which of them are neighbours;
5. a search over the rows of bits, which reads each core channel's row once and finds the clusters in the
   order of their lowest core index, as scikit-learn does.
"""

from __future__ import annotations

import math
from _thread import start_new_thread
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cfcam_gpu.config import EPS_FLOOR, EPS_SLACK, NOISE, CFCAMConfig
from cfcam_gpu.engines.numba_kernels import between, compare, interval, live_first, mirror, search, set_inside

#: The smallest number above 0.
_LEAST = float(np.finfo(np.float32).smallest_subnormal)


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
                n_clusters[b] = search(scratch.rows, scratch.order[:n], config.min_samples(n), labels[b])

    _in_threads(work, slices)
    return torch.from_numpy(labels), torch.from_numpy(n_clusters), torch.from_numpy(eps)


class Scratch(NamedTuple):
    """Memory for one image of at most N channels.

    Attributes:
        order: (N,) int64: the image's channels, those that are not zero everywhere first.
        rows: (N, ceil(N/64)) uint64: bit j of row i says whether channels order[i] and order[j] are neighbours.
        values, places, starts: of the pairs inside an interval, see `compare`.
    """

    order: NDArray[np.int64]
    rows: NDArray[np.uint64]
    values: NDArray[np.float32]
    places: NDArray[np.int32]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, channels: int) -> Scratch:
        """Memory for so many channels; what is not used is only reserved."""
        pairs = max(1, channels * (channels - 1) // 2)
        return cls(
            np.empty(channels, np.int64),
            np.empty((channels, (channels + 63) // 64), np.uint64),
            np.empty(pairs, np.float32),
            np.empty(pairs, np.int32),
            np.empty(channels + 1, np.int64),
        )


def neighbours(x: NDArray[np.float32], percentile: float, scratch: Scratch) -> float:
    """eps of the channels x (n,D), n > 1, and in `scratch.order` and `rows` which of them are neighbours.

    eps is the percentile (NumPy's, linear) of the off-diagonal distances, at least `EPS_FLOOR`.
    """
    n = len(x)
    order, rows, values, places, starts = scratch
    dead = n - live_first(x, order[:n])
    distinct = x[order[: n - max(0, dead - 1)]]
    columns = np.ascontiguousarray(distinct.T)
    entries = n * (n - 1)  # each pair's distance stands there twice
    position = (entries - 1) * (percentile / 100)
    whole = math.floor(position)
    low_rank, high_rank = whole // 2, min(whole + 1, entries - 1) // 2
    zeros = dead * (dead - 1) // 2
    eps, limit = EPS_FLOOR, _squared(EPS_FLOOR)
    if high_rank < zeros:  # both distances are 0
        above = float(np.nextafter(np.float32(limit), np.float32(np.inf)))
        compare(columns, n, above, above, rows, values, places, starts)
    else:
        first, last = interval(distinct, n, low_rank)
        if zeros <= low_rank:
            first = max(first, _LEAST)  # zeros lie below, and are not kept
        for low, high in ((first, last), (0.0, math.inf)):
            below, inside = compare(columns, n, low, high, rows, values, places, starts)
            if not (below <= low_rank and high_rank < below + inside):
                continue  # the sample misled: all pairs are inside the second interval
            found = between(values[:inside].copy(), low_rank - below, high_rank - below, position - whole)
            eps = max(found, EPS_FLOOR)
            limit = _squared(eps)
            if limit <= high:
                break
    set_inside(values, places, starts[: n + 1], limit, rows)
    mirror(rows, n)
    return eps


def _squared(eps: float) -> float:
    """The largest squared distance of neighbours, of which float32 values up to it are."""
    return float(np.float32((eps * (1 + EPS_SLACK)) ** 2))


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
