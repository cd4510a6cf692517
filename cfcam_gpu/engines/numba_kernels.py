"""The parts of `numba_scan` that Numba compiles, each for one image.

They are in one file because Numba's cache on disk knows a function by its own file: a change of what it calls elsewhere
would be missed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from cfcam_gpu.config import EPS_FLOOR

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


def _inline(function: Callable[..., Any]) -> Any:
    """Numba's `intrinsic`: where the function is called, LLVM's instructions that it builds are."""
    return intrinsic(function)


@_inline
def _popcount(_context, _word):  # type: ignore[no-untyped-def]
    """Number of bits set in a uint64, a uint64."""

    def build(_target, builder, _signature, arguments):  # type: ignore[no-untyped-def]
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), build


@_inline
def _trailing_zeros(_context, _word):  # type: ignore[no-untyped-def]
    """Place of the lowest bit set in a uint64 that is not 0, a uint64."""

    def build(_target, builder, _signature, arguments):  # type: ignore[no-untyped-def]
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), build


def _comparison(operator: str) -> Any:
    """(values, start, limit) -> a uint64 of which bit j says how values[start+j] compares with the limit, NaN: not.

    As vectors of 8, whose comparison is a mask of bits already; a loop over scalars becomes bytes that have to be
    packed, which took half as long as the distances.
    """
    eight, word = ir.VectorType(ir.FloatType(), 8), ir.IntType(64)

    @_inline
    def bits_of(_context, _values, _start, _limit):  # type: ignore[no-untyped-def]
        def build(target, builder, signature, arguments):  # type: ignore[no-untyped-def]
            array = target.make_array(signature.args[0])(target, builder, arguments[0])
            vectors = builder.bitcast(builder.gep(array.data, [arguments[1]]), eight.as_pointer())
            nothing = ir.Constant(eight, ir.Undefined)
            limits = builder.insert_element(nothing, arguments[2], ir.Constant(ir.IntType(32), 0))
            places = ir.Constant(ir.VectorType(ir.IntType(32), 8), [0] * 8)
            limits = builder.shuffle_vector(limits, nothing, places)
            bits = ir.Constant(word, 0)
            for k in range(8):
                vector = builder.load(builder.gep(vectors, [ir.Constant(word, k)]), align=4)
                mask = builder.bitcast(builder.fcmp_ordered(operator, vector, limits), ir.IntType(8))
                shifted = builder.shl(builder.zext(mask, word), ir.Constant(word, 8 * k))
                bits = builder.or_(bits, shifted)
            return bits

        return types.uint64(types.Array(types.float32, 1, "C"), types.int64, types.float32), build

    return bits_of


_less, _at_most = _comparison("<"), _comparison("<=")


@_compiled
def live_first(x, order):  # type: ignore[no-untyped-def]
    """Writes to `order` (n,) which channels of x (n,D) are not zero everywhere, then the others; how many are not."""
    n, depth = x.shape
    live, end = 0, n
    for i in range(n):
        d = 0
        while d < depth and x[i, d] == 0:
            d += 1
        if d < depth:
            order[live] = i
            live += 1
        else:
            end -= 1
            order[end] = i
    return live


@_reordered
def interval(x, n, rank):  # type: ignore[no-untyped-def]
    """Two squared distances between which that of a rank should lie, from a sample of the pairs of n channels.

    Channels from the last of x (m,D) on are like that one.
    """
    last_row, depth = x.shape[0] - 1, x.shape[1]
    pairs = n * (n - 1) // 2
    size = min(SAMPLE, pairs)
    sample = np.empty(size, np.float32)
    i, start = 0, 0  # the pairs (i, i+1), (i, i+2), … begin at number `start`
    for s in range(size):
        pair = s * pairs // size
        while pair >= start + n - 1 - i:
            start += n - 1 - i
            i += 1
        a, b = x[min(i, last_row)], x[min(i + 1 + pair - start, last_row)]
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
def compare(columns, n, low, high, rows, values, places, starts):  # type: ignore[no-untyped-def]
    """How many squared distances of n channels lie below an interval, and how many inside.

    Channels from the last of the columns (D,m) on are like that one. Bit j of rows[i], i < j, is set where the distance
    lies below. Those inside are written to `values`, and their j to `places`; row i's are from starts[i] to
    starts[i+1].
    """
    low, high = np.float32(low), np.float32(high)
    depth, m = columns.shape
    words = (m + 63) // 64
    p, q = np.full(64 * words, _NONE), np.full(64 * words, _NONE)
    part_p, part_q = np.empty(m, np.float32), np.empty(m, np.float32)
    below, inside = 0, 0
    for i in range(0, m, 2):
        k = min(i + 1, m - 1)
        first = (i + 1) & ~7  # where a vector register begins
        _squares(columns, 0, min(depth, _FEATURE_BLOCK), i, k, first, p, q)
        for d in range(_FEATURE_BLOCK, depth, _FEATURE_BLOCK):
            _squares(columns, d, min(depth, d + _FEATURE_BLOCK), i, k, first, part_p, part_q)
            for j in range(first, m):
                p[j] += part_p[j]
                q[j] += part_q[j]
        for k in range(i, min(i + 2, m)):
            distances = p if k == i else q
            to_others = distances[m - 1]  # of the last row: its own, 0
            word = k >> 6
            for j in range(64 * word, k + 1):
                distances[j] = _NONE
            rows[k] = 0
            starts[k] = inside
            for w in range(word, words):
                bits = _less(distances, 64 * w, low)
                rows[k, w] = bits
                below += np.int64(_popcount(bits))
                bits = _at_most(distances, 64 * w, high) & ~bits
                while bits:
                    j = (w << 6) + np.int64(_trailing_zeros(bits))
                    bits &= bits - np.uint64(1)
                    values[inside], places[inside] = distances[j], j
                    inside += 1
            below, inside = _alike(to_others, m, n, low, high, below, inside, rows[k], values, places)
    for k in range(m, n):
        rows[k] = 0
        starts[k] = inside
        below, inside = _alike(np.float32(0), k + 1, n, low, high, below, inside, rows[k], values, places)
    starts[n] = inside
    return below, inside


@_compiled
def _alike(distance, start, n, low, high, below, inside, row, values, places):  # type: ignore[no-untyped-def]
    """As `compare`, of channels from `start` to n whose distance from the row's is the same."""
    if distance < low:
        for w in range(start >> 6, (n + 63) >> 6):
            bits = ~np.uint64(0)
            if w == start >> 6:
                bits <<= np.uint64(start & 63)
            if 64 * (w + 1) > n:
                bits &= ~np.uint64(0) >> np.uint64(64 * (w + 1) - n)
            row[w] |= bits
        below += n - start
    elif distance <= high:
        for j in range(start, n):
            values[inside], places[inside] = distance, j
            inside += 1
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
def between(values, low_rank, high_rank, fraction):  # type: ignore[no-untyped-def]
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
def set_inside(values, places, starts, limit, rows):  # type: ignore[no-untyped-def]
    """Sets the bits of the pairs inside the interval whose squared distance is at most `limit`, and the diagonal's."""
    limit = np.float32(limit)
    for i in range(starts.size - 1):
        rows[i, i >> 6] |= np.uint64(1) << np.uint64(i & 63)
        for k in range(starts[i], starts[i + 1]):
            j = places[k]
            rows[i, j >> 6] |= np.uint64(values[k] <= limit) << np.uint64(j & 63)


@_compiled
def mirror(rows, n):  # type: ignore[no-untyped-def]
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
def search(rows, order, minimum, labels):  # type: ignore[no-untyped-def]
    """Writes DBSCAN's labels from the rows of bits, over labels that are all noise; returns the number of clusters.

    Row and bit p are those of channel order[p], of which the labels are.
    """
    n = order.size
    words = (n + 63) // 64
    places = np.empty(n, np.int64)
    for p in range(n):
        places[order[p]] = p
    core = np.zeros(n, np.bool_)
    open_bits = np.zeros(words, np.uint64)
    for i in range(n):
        count = np.uint64(0)
        for w in range(words):
            count += _popcount(rows[i, w])
        core[i] = np.int64(count) >= minimum
        open_bits[i >> 6] |= np.uint64(1) << np.uint64(i & 63)
    stack = np.empty(n, np.int64)
    clusters = 0
    for channel in range(n):
        seed = places[channel]
        if not core[seed] or labels[channel] >= 0:
            continue
        labels[channel] = clusters
        open_bits[seed >> 6] &= ~(np.uint64(1) << np.uint64(seed & 63))
        stack[0], height = seed, 1
        while height > 0:
            height -= 1
            point = stack[height]
            for w in range(words):
                joined = rows[point, w] & open_bits[w]
                open_bits[w] &= ~joined
                while joined:
                    other = (w << 6) + np.int64(_trailing_zeros(joined))
                    joined &= joined - np.uint64(1)
                    labels[order[other]] = clusters
                    if core[other]:
                        stack[height] = other
                        height += 1
        clusters += 1
    return clusters
