"""What CF-CAM needs to know of each channel, which channels are dominant, and the columns of the others.

PyTorch reference: `cfcam_gpu.cfcam.clustering.dominant_channels` and the order in `cluster_channels`;
`cfcam_gpu.explanation.status_of`.

Mathematics. A channel's norm is summed in float64, where no finite float32 overflows: it is finite just where
every value is. Non-negative floats have the same order as their bit patterns, so that a norm's order statistic
is found by halving the range of patterns 63 times, and the largest magnitude of a gradient by comparing
patterns, NaN above infinity above all numbers.

Least work: activations and gradients are read once, 2 operations for each value; the columns are read and
written once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Numbers of channels and of cells that are read at once.
_CHANNELS = 32
_CELLS = 64


class Statistics(NamedTuple):
    """What one pass over activations and gradients finds.

    Attributes:
        norms: (B,C) float64, L2 norms of the activations; NaN or Inf just where a value is.
        means: (B,K,C) float32, means of the gradients.
        largest: (B,K,C) int32, bit patterns of the gradients' largest magnitudes.
    """

    norms: Tensor
    means: Tensor
    largest: Tensor


class Split(NamedTuple):
    """The channels of each image that are clustered.

    Attributes:
        status: (B,) int64, the problem of the image, 0 for none.
        labels: (B,C) int64, -2 for dominant channels, -1 for the others.
        order: (B,N) int32, the channels that are not dominant, in their order; undefined from `counts` on.
        counts: (B,) int32, their number.
    """

    status: Tensor
    labels: Tensor
    order: Tensor
    counts: Tensor


def statistics(activations: Tensor, gradients: Tensor) -> Statistics:
    """Norms, mean gradients and largest gradients of the channels.

    Launch: one program for each block of channels of an image.

    Args:
        activations: (B,C,h,w) float32, bfloat16 or float16, contiguous.
        gradients: (B,K,C,h,w) float32, contiguous.
    """
    b, k, c, h, w = gradients.shape
    norms = torch.empty(b, c, dtype=torch.float64, device=gradients.device)
    means = torch.empty(b, k, c, device=gradients.device)
    largest = torch.empty(b, k, c, dtype=torch.int32, device=gradients.device)
    blocks = triton.cdiv(c, _CHANNELS)
    _statistics[(b * blocks,)](
        activations, gradients, norms, means, largest, c, k, h * w, blocks, _CHANNELS, _CELLS
    )
    return Statistics(norms, means, largest)


def split(
    statistics: Statistics,
    percentile: float | None,
    slack: float,
    clustered: int,
    codes: tuple[int, int, int, int],
    out_of_range: Tensor | None = None,
    *,
    zero_gradient: bool = False,
) -> Split:
    """The dominant channels, the order of the others, and the images that cannot be explained.

    Launch: one program for each image. An image whose activations or gradients are not finite is split
    as if its activations were zero.

    Args:
        statistics: of the images.
        percentile: of the norms, from which on a channel is dominant; None: no channel is.
        slack: a norm may lie this much below the percentile, relative to it.
        clustered: N, the largest number of channels that can lie below.
        codes: statuses of images whose activations are not finite, whose gradients are not finite, with a
            target out of range, and with a gradient of zeros; the first that holds is the image's.
        out_of_range: (B,) bool: images with a target out of range; None: there is none.
        zero_gradient: whether a gradient of zeros is a problem.
    """
    norms, _, largest = statistics
    b, k, c = largest.shape
    order = torch.empty(b, clustered, dtype=torch.int32, device=norms.device)
    status = torch.empty(b, dtype=torch.int64, device=norms.device)
    labels = torch.empty(b, c, dtype=torch.int64, device=norms.device)
    counts = torch.empty(b, dtype=torch.int32, device=norms.device)
    rank, fraction = divmod((percentile or 0) / 100 * (c - 1), 1.0)
    _split[(b,)](
        norms,
        largest,
        status if out_of_range is None else out_of_range,
        status,
        labels,
        order,
        counts,
        c,
        k,
        clustered,
        int(rank),
        fraction,
        1 - slack,
        percentile is not None,
        out_of_range is not None,
        zero_gradient,
        *codes,
        triton.next_power_of_2(c),
        num_warps=8,
    )
    return Split(status, labels, order, counts)


def columns(activations: Tensor, split: Split, block: int, not_finite: tuple[int, int]) -> Tensor:
    """The clustered channels of activations (B,C,h,w), transposed to (B,h·w,M) float32.

    M is N rounded up to a multiple of `block`, the size of a tile of pairs. Then a step over the cells reads
    neighbouring floats, and no tile reads outside the tensor. Rows without a channel hold NaN, so that their
    distances are above all others. Images with a status in `not_finite` are all zeros.

    Launch: one program for each block of rows and of cells of an image.
    """
    b, c, h, w = activations.shape
    n = split.order.shape[1]
    padded = triton.cdiv(n, block) * block
    result = torch.empty(b, h * w, padded, device=activations.device)
    cells = triton.cdiv(h * w, _CELLS)
    programs = b * cells * (padded // _CHANNELS)
    _columns[(programs,)](
        activations,
        split.status,
        split.order,
        split.counts,
        result,
        c,
        h * w,
        n,
        padded,
        cells,
        *not_finite,
        _CHANNELS,
        _CELLS,
    )
    return result


@triton.jit
def _statistics(
    activations: tl.tensor,
    gradients: tl.tensor,
    norms: tl.tensor,
    means: tl.tensor,
    largest: tl.tensor,
    c: tl.tensor,
    k: tl.tensor,
    hw: tl.tensor,
    blocks: tl.tensor,
    CHANNELS: tl.constexpr,
    CELLS: tl.constexpr,
) -> None:
    """One block of channels of one image."""
    image = (tl.program_id(0) // blocks).to(tl.int64)
    channel = tl.program_id(0) % blocks * CHANNELS + tl.arange(0, CHANNELS)
    cell = tl.arange(0, CELLS)
    offsets = channel[:, None] * hw + cell[None, :]
    square = tl.zeros((CHANNELS,), tl.float64)
    for start in range(0, hw, CELLS):
        wanted = (channel[:, None] < c) & (start + cell[None, :] < hw)
        values = tl.load(activations + image * c * hw + offsets + start, mask=wanted, other=0.0)
        values = values.to(tl.float64)
        square += tl.sum(values * values, 1)
    tl.store(norms + image * c + channel, tl.sqrt(square), mask=channel < c)
    for target in range(k):
        first = (image * k + target) * c
        total, most = tl.zeros((CHANNELS,), tl.float32), tl.zeros((CHANNELS,), tl.int32)
        for start in range(0, hw, CELLS):
            wanted = (channel[:, None] < c) & (start + cell[None, :] < hw)
            values = tl.load(gradients + first * hw + offsets + start, mask=wanted, other=0.0)
            total += tl.sum(values, 1)
            most = tl.maximum(most, tl.max(values.to(tl.int32, bitcast=True) & 0x7FFFFFFF, 1))
        tl.store(means + first + channel, total / hw, mask=channel < c)
        tl.store(largest + first + channel, most, mask=channel < c)


@triton.jit
def _split(
    norms: tl.tensor,
    largest: tl.tensor,
    out_of_range: tl.tensor,
    status: tl.tensor,
    labels: tl.tensor,
    order: tl.tensor,
    counts: tl.tensor,
    c: tl.tensor,
    k: tl.tensor,
    clustered: tl.tensor,
    rank: tl.tensor,
    FRACTION: tl.constexpr,
    FACTOR: tl.constexpr,
    HAS_DOMINANT: tl.constexpr,
    HAS_RANGE: tl.constexpr,
    ZERO_GRADIENT: tl.constexpr,
    NO_ACTIVATIONS: tl.constexpr,
    NO_GRADIENTS: tl.constexpr,
    OUT_OF_RANGE: tl.constexpr,
    ALL_ZERO: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:
    """The status, labels and order of one image."""
    image = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, CHANNELS)
    norm = tl.load(norms + image * c + channel, mask=channel < c, other=0.0)
    code = 0
    highest, lowest = 0, 0x7FFFFFFF
    for target in range(k):
        bits = tl.load(largest + (image * k + target) * c + channel, mask=channel < c, other=0)
        most = tl.max(bits, 0)
        highest, lowest = tl.maximum(highest, most), tl.minimum(lowest, most)
    if ZERO_GRADIENT:
        code = tl.where(lowest == 0, ALL_ZERO, code)
    if HAS_RANGE:
        code = tl.where(tl.load(out_of_range + image) != 0, OUT_OF_RANGE, code)
    bad_gradients = highest >= 0x7F800000
    bad_activations = tl.max((~(norm < float("inf"))).to(tl.int32), 0) > 0
    code = tl.where(bad_gradients, NO_GRADIENTS, code)
    code = tl.where(bad_activations, NO_ACTIVATIONS, code)
    tl.store(status + image, code)
    norm = tl.where(bad_gradients | bad_activations, 0.0, norm)
    dominant = norm < 0
    if HAS_DOMINANT:
        dominant = norm >= _percentile(norm, channel < c, rank, c - 1, FRACTION) * FACTOR
    rest = (channel < c) & (dominant == 0)
    row = tl.cumsum(rest.to(tl.int32), 0) - 1
    tl.store(order + image * clustered + row, channel, mask=rest & (row < clustered))
    tl.store(counts + image, tl.sum(rest.to(tl.int32), 0))
    tl.store(labels + image * c + channel, tl.where(dominant, -2, -1), mask=channel < c)


@triton.jit
def _percentile(
    values: tl.tensor, inside: tl.tensor, rank: tl.tensor, last: tl.tensor, FRACTION: tl.constexpr
) -> tl.tensor:
    """The order statistic at a rank and FRACTION of the way to the next one; values float64, not negative."""
    most: tl.constexpr = 0x7FF0000000000000
    bits = tl.where(inside, values.to(tl.int64, bitcast=True), most)
    low, high = tl.full((), 0, tl.int64), tl.full((), most, tl.int64)
    for _ in range(63):
        middle = low + ((high - low) >> 1)
        enough = tl.sum((bits <= middle).to(tl.int32), 0) > rank
        high = tl.where(enough, middle, high)
        low = tl.where(enough, low, middle + 1)
    repeated = tl.sum((bits <= high).to(tl.int32), 0) > tl.minimum(rank + 1, last)
    following = tl.min(tl.where(bits > high, bits, most), 0)
    below = high.to(tl.float64, bitcast=True)
    above = tl.where(repeated, high, following).to(tl.float64, bitcast=True)
    return below + (above - below) * FRACTION


@triton.jit
def _columns(
    activations: tl.tensor,
    status: tl.tensor,
    order: tl.tensor,
    counts: tl.tensor,
    columns: tl.tensor,
    c: tl.tensor,
    hw: tl.tensor,
    n: tl.tensor,
    padded: tl.tensor,
    cells: tl.tensor,
    NO_ACTIVATIONS: tl.constexpr,
    NO_GRADIENTS: tl.constexpr,
    ROWS: tl.constexpr,
    CELLS: tl.constexpr,
) -> None:
    """One block of rows and cells of one image."""
    block = tl.program_id(0) // cells
    image = (block // (padded // ROWS)).to(tl.int64)
    row = block % (padded // ROWS) * ROWS + tl.arange(0, ROWS)
    cell = tl.program_id(0) % cells * CELLS + tl.arange(0, CELLS)
    code = tl.load(status + image)
    finite = (code != NO_ACTIVATIONS) & (code != NO_GRADIENTS)
    known = row < tl.load(counts + image)
    channel = tl.load(order + image * n + row, mask=known, other=0)
    wanted = (known & finite)[:, None] & (cell < hw)[None, :]
    values = tl.load(
        activations + (image * c + channel[:, None]) * hw + cell[None, :], mask=wanted, other=0.0
    )
    places = columns + (image * hw + cell[None, :]) * padded + row[:, None]
    values = tl.where(known[:, None], values.to(tl.float32), float("nan"))
    tl.store(places, values, mask=(row[:, None] < padded) & (cell < hw)[None, :])
