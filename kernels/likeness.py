"""Spread of `cfcam-sharp`: maps averaged over all places, weighted by likeness of their features, which is not stored.

PyTorch reference: `cfcam_gpu.methods.sharp._spread`.

Mathematics. spread_i = Σ_j L_ij·m_j / Σ_j L_ij with L_ij = max(0, cos(x_i, x_j))², where x_i are the features of place
i less their mean over all places. The lengths of x_i are summed beside the products, over blocks of channels in order.
A place that differs from the mean by rounding alone is like none and gets 0. NaN stays NaN.

Least work: 2·C·N² operations an image for N places, in tensor cores as three products of TF32: with one, cosines would
be off by 1e-3.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Places of a tile, of rows and of columns, and number of channels that are read at once.
_PLACES, _CHANNELS = 64, 16

#: Maps that are spread at once, the fewest that a tensor core takes. For more the likeness is computed again: with
#: 32 maps the program would need more registers than a thread has.
_TARGETS = 16


def spread_by_likeness(maps: Tensor, features: Tensor, rounding: float) -> Tensor:
    """The maps (B,K,h,w) float32, spread over places that are alike.

    Launch: a program for each tile of places of an image; means and largest lengths are PyTorch's.

    Args:
        maps: (B,K,h,w) float32, contiguous.
        features: (B,C,h,w) float32, contiguous.
        rounding: a place whose features differ from the mean by no more than this share of the largest is like none.
    """
    b, k, h, w = maps.shape
    c, n = features.shape[1], h * w
    means = features.mean((2, 3))
    least = torch.linalg.vector_norm(features, dim=1).amax((1, 2)).mul_(rounding)
    spread = torch.empty_like(maps)
    tiles = triton.cdiv(n, _PLACES)
    _spread[(b * tiles,)](maps, features, means, least, spread, tiles, c, n, k, _PLACES, _CHANNELS, _TARGETS)
    return spread


@triton.jit
def _spread(
    maps: tl.tensor,
    features: tl.tensor,
    means: tl.tensor,
    least: tl.tensor,
    spread: tl.tensor,
    tiles: tl.tensor,
    c: tl.tensor,
    n: tl.tensor,
    k: tl.tensor,
    PLACES: tl.constexpr,
    CHANNELS: tl.constexpr,
    TARGETS: tl.constexpr,
) -> None:
    """The spread maps of one image at one tile of places, `TARGETS` maps at a time."""
    image = (tl.program_id(0) // tiles).to(tl.int64)
    row = tl.program_id(0) % tiles * PLACES + tl.arange(0, PLACES)
    features += image * c * n
    means += image * c
    shortest = tl.load(least + image)
    for first in range(0, k, TARGETS):
        target = first + tl.arange(0, TARGETS)
        of_maps = (image * k + target[None, :]) * n
        values, total = tl.zeros((PLACES, TARGETS), tl.float32), tl.zeros((PLACES,), tl.float32)
        for start in range(0, n, PLACES):
            column = start + tl.arange(0, PLACES)
            likeness = _likeness(features, means, row, column, shortest, c, n, PLACES, CHANNELS)
            total += tl.sum(likeness, 1)
            wanted = (column[:, None] < n) & (target[None, :] < k)
            value = tl.load(maps + of_maps + column[:, None], mask=wanted, other=0.0)
            values = tl.dot(likeness, value, values, input_precision="tf32x3")
        values = values / tl.where(total > 0, total, 1.0)[:, None]
        inside = (row[:, None] < n) & (target[None, :] < k)
        tl.store(spread + of_maps + row[:, None], values, mask=inside)


@triton.jit
def _likeness(
    features: tl.tensor,
    means: tl.tensor,
    row: tl.tensor,
    column: tl.tensor,
    shortest: tl.tensor,
    c: tl.tensor,
    n: tl.tensor,
    PLACES: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> tl.tensor:
    """Squared positive cosines (PLACES, PLACES) of the features at rows and columns; 0 outside of the map."""
    products = tl.zeros((PLACES, PLACES), tl.float32)
    of_rows, of_columns = tl.zeros((PLACES,), tl.float32), tl.zeros((PLACES,), tl.float32)
    for start in range(0, c, CHANNELS):
        channel = start + tl.arange(0, CHANNELS)
        left = _centred(features, means, row, channel, c, n)
        right = _centred(features, means, column, channel, c, n)
        products = tl.dot(left, tl.trans(right), products, input_precision="tf32x3")
        of_rows += tl.sum(left * left, 1)
        of_columns += tl.sum(right * right, 1)
    rows, columns = _reciprocal(of_rows, shortest), _reciprocal(of_columns, shortest)
    cosine = products * rows[:, None] * columns[None, :]
    return tl.where(cosine <= 0, 0.0, cosine * cosine)


@triton.jit
def _centred(
    features: tl.tensor, means: tl.tensor, place: tl.tensor, channel: tl.tensor, c: tl.tensor, n: tl.tensor
) -> tl.tensor:
    """Features of places at channels less the channels' means; 0 outside."""
    wanted = (channel[None, :] < c) & (place[:, None] < n)
    value = tl.load(features + channel[None, :] * n + place[:, None], mask=wanted, other=0.0)
    mean = tl.load(means + channel, mask=channel < c, other=0.0)
    return tl.where(wanted, value - mean[None, :], 0.0)


@triton.jit
def _reciprocal(squares: tl.tensor, shortest: tl.tensor) -> tl.tensor:
    """The reciprocals of lengths; 0 where only rounding is left."""
    length = tl.sqrt(squares)
    only_rounding = length <= shortest
    return tl.where(only_rounding, 0.0, 1.0 / tl.where(only_rounding, 1.0, length))
