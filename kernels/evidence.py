"""Evidence of `cfcam-sharp`: positive gradient times activation, each channel weighted by its agreement with a map.

PyTorch reference: `cfcam_gpu.methods.sharp._agreeing`, which is a positive factor for each map away.

Mathematics. evidence = Σ_c cos²(P_c, m)·P_c with P_c = max(0, A_c·G_c), over blocks of channels in order. Before they
are squared, P_c and m are divided by their largest values: squares of gradients of 1e-22 would be 0. NaN stays NaN.

Least work: activations and gradients are read twice, about 10 operations for each value.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Number of values that the first pass reads at once, and its most cells.
_TILE, _MOST_CELLS = 1024, 1024

#: Numbers of channels and of cells that the second pass reads at once.
_CHANNELS, _CELLS = 64, 32


def agreeing_evidence(
    activations: Tensor, gradients: Tensor, maps: Tensor, cells: int | None = None
) -> Tensor:
    """The evidence (B,K,h,w) float32, not negative, on the scale of gradient times activation.

    Launches: a program for each block of channels of a target, then one for each block of cells.

    Args:
        activations: (B,C,h,w) float32, bfloat16 or float16, contiguous.
        gradients: (B,K,C,h,w) float32, contiguous.
        maps: (B,K,h,w) float32, not negative, contiguous.
        cells: number of cells that the first pass reads at once, a power of two; None: at most `_MOST_CELLS`.
    """
    b, k, c, h, w = gradients.shape
    hw = h * w
    cells = cells or max(16, min(_MOST_CELLS, triton.next_power_of_2(hw)))
    channels = max(1, min(_TILE // cells, triton.next_power_of_2(c)))
    agreement = torch.empty(b, k, c, device=gradients.device)
    evidence = torch.empty(b, k, h, w, device=gradients.device)
    groups, blocks = triton.cdiv(c, channels), triton.cdiv(hw, _CELLS)
    _agreement[(b * k * groups,)](activations, gradients, maps, agreement, groups, c, k, hw, cells, channels)
    _evidence[(b * k * blocks,)](
        activations, gradients, agreement, evidence, blocks, c, k, hw, _CELLS, _CHANNELS
    )
    return evidence


@triton.jit
def _agreement(
    activations: tl.tensor,
    gradients: tl.tensor,
    maps: tl.tensor,
    agreement: tl.tensor,
    groups: tl.tensor,
    c: tl.tensor,
    k: tl.tensor,
    hw: tl.tensor,
    CELLS: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:
    """Squared cosine of each of a block of channels and the map of one target; 0 where either is 0 everywhere."""
    target = (tl.program_id(0) // groups).to(tl.int64)
    channel = tl.program_id(0) % groups * CHANNELS + tl.arange(0, CHANNELS)
    activations += target // k * c * hw
    gradients += target * c * hw
    maps += target * hw
    largest, peak = tl.zeros((CHANNELS,), tl.float32), 0.0
    for start in range(0, hw, CELLS):
        cell = start + tl.arange(0, CELLS)
        positive = _positive(activations, gradients, channel, cell, c, hw)
        largest = tl.maximum(largest, tl.max(positive, 1))
        peak = tl.maximum(peak, tl.max(tl.load(maps + cell, mask=cell < hw, other=0.0), 0))
    of_channel = 1.0 / tl.where(largest > 0, largest, 1.0)[:, None]
    of_map = 1.0 / tl.where(peak > 0, peak, 1.0)
    products, squares = tl.zeros((CHANNELS,), tl.float32), tl.zeros((CHANNELS,), tl.float32)
    map_squares = 0.0
    for start in range(0, hw, CELLS):
        cell = start + tl.arange(0, CELLS)
        positive = _positive(activations, gradients, channel, cell, c, hw) * of_channel
        value = tl.load(maps + cell, mask=cell < hw, other=0.0) * of_map
        products += tl.sum(positive * value[None, :], 1)
        squares += tl.sum(positive * positive, 1)
        map_squares += tl.sum(value * value, 0)
    norms = squares * map_squares
    squared_cosine = products * products / tl.where(norms > 0, norms, 1.0)
    tl.store(agreement + target * c + channel, squared_cosine, mask=channel < c)


@triton.jit
def _evidence(
    activations: tl.tensor,
    gradients: tl.tensor,
    agreement: tl.tensor,
    evidence: tl.tensor,
    blocks: tl.tensor,
    c: tl.tensor,
    k: tl.tensor,
    hw: tl.tensor,
    CELLS: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:
    """The evidence of one block of cells for one target."""
    target = (tl.program_id(0) // blocks).to(tl.int64)
    cell = tl.program_id(0) % blocks * CELLS + tl.arange(0, CELLS)
    activations += target // k * c * hw
    gradients += target * c * hw
    total = tl.zeros((CELLS,), tl.float32)
    for start in range(0, c, CHANNELS):
        channel = start + tl.arange(0, CHANNELS)
        weight = tl.load(agreement + target * c + channel, mask=channel < c, other=0.0)
        total += tl.sum(weight[:, None] * _positive(activations, gradients, channel, cell, c, hw), 0)
    tl.store(evidence + target * hw + cell, total, mask=cell < hw)


@triton.jit
def _positive(
    activations: tl.tensor,
    gradients: tl.tensor,
    channel: tl.tensor,
    cell: tl.tensor,
    c: tl.tensor,
    hw: tl.tensor,
) -> tl.tensor:
    """What is positive of gradient times activation, of channels at cells; 0 outside, NaN stays NaN."""
    wanted = (channel[:, None] < c) & (cell[None, :] < hw)
    place = channel[:, None] * hw + cell[None, :]
    activation = tl.load(activations + place, mask=wanted, other=0.0).to(tl.float32)
    product = activation * tl.load(gradients + place, mask=wanted, other=0.0)
    return tl.where(product <= 0, 0.0, product)
