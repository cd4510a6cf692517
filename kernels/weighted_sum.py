"""The grid: activations summed over the channels with weights, then ReLU, in one pass.

PyTorch reference: `cfcam_gpu.cfcam.weighting.activation_map`.

Mathematics. grid = max(0, Σ_c w_c A_c), in float32 over blocks of channels in order; NaN stays NaN.

Least work: the activations are read once for each target, 2 operations for each value; only the first
read comes from memory, the others from the cache.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Numbers of channels and of cells that are read at once. An image has few programs, so that each of them must
#: have many reads under way.
_CHANNELS = 128
_CELLS = 32


def weighted_sum(
    activations: Tensor, weights: Tensor, channels: int = _CHANNELS, cells: int = _CELLS
) -> Tensor:
    """The grid (B,K,h,w) float32, not negative.

    Launch: a grid (B · blocks of cells, K). CUDA allows 65,535 programs along all axes but the first.

    Args:
        activations: (B,C,h,w) float32, bfloat16 or float16, contiguous.
        weights: (B,K,C) float32.
        channels: number of channels of a block, a power of two.
        cells: number of cells of a block, a power of two.
    """
    b, c, h, w = activations.shape
    k = weights.shape[1]
    grid = torch.empty(b, k, h, w, device=activations.device)
    blocks = triton.cdiv(h * w, cells)
    _weighted_sum[(b * blocks, k)](activations, weights.contiguous(), grid, c, h * w, blocks, channels, cells)
    return grid


@triton.jit
def _weighted_sum(
    activations: tl.tensor,
    weights: tl.tensor,
    grid: tl.tensor,
    c: tl.tensor,
    hw: tl.tensor,
    blocks: tl.tensor,
    CHANNELS: tl.constexpr,
    CELLS: tl.constexpr,
) -> None:
    """The sum of one block of cells of one image for one target."""
    image = (tl.program_id(0) // blocks).to(tl.int64)
    target = image * tl.num_programs(1) + tl.program_id(1)
    cell = tl.program_id(0) % blocks * CELLS + tl.arange(0, CELLS)
    total = tl.zeros((CELLS,), tl.float32)
    for start in range(0, c, CHANNELS):
        channel = start + tl.arange(0, CHANNELS)
        weight = tl.load(weights + target * c + channel, mask=channel < c, other=0.0)
        wanted = (channel[:, None] < c) & (cell[None, :] < hw)
        values = activations + (image * c + channel[:, None]) * hw + cell[None, :]
        total += tl.sum(weight[:, None] * tl.load(values, mask=wanted, other=0.0).to(tl.float32), 0)
    tl.store(grid + target * hw + cell, tl.where(total <= 0, 0.0, total), mask=cell < hw)
