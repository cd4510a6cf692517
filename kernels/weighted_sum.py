"""The grid: activations summed over the channels with weights, then ReLU, in one pass.

Torch reference: `cfcam_gpu.cfcam.weighting.activation_map`.

Mathematics. grid = max(0, Σ_c w_c A_c), in float32 over blocks of channels in order; NaN stays NaN.

Floor: the activations are read once a target (2 operations a value), from memory once for all of them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Channels and cells that are read at once: many bytes in flight for few programs an image.
CHANNELS = 128
CELLS = 32


def weighted_sum(
    activations: Tensor, weights: Tensor, channels: int = CHANNELS, cells: int = CELLS
) -> Tensor:
    """The grid (B,K,h,w) float32, not negative.

    Launch: a grid (blocks of cells, K, B).

    Args:
        activations: (B,C,h,w) float32, bfloat16 or float16, contiguous.
        weights: (B,K,C) float32.
        channels, cells: block sizes, powers of two.
    """
    b, c, h, w = activations.shape
    k = weights.shape[1]
    grid = torch.empty(b, k, h, w, device=activations.device)
    blocks = triton.cdiv(h * w, cells)
    _weighted_sum[(blocks, k, b)](activations, weights.contiguous(), grid, c, h * w, channels, cells)
    return grid


@triton.jit
def _weighted_sum(
    activations: tl.tensor,
    weights: tl.tensor,
    grid: tl.tensor,
    c: tl.tensor,
    hw: tl.tensor,
    CHANNELS: tl.constexpr,
    CELLS: tl.constexpr,
) -> None:
    """A block of cells of one image for one target."""
    image = tl.program_id(2).to(tl.int64)
    target = image * tl.num_programs(1) + tl.program_id(1)
    cell = tl.program_id(0) * CELLS + tl.arange(0, CELLS)
    total = tl.zeros((CELLS,), tl.float32)
    for start in range(0, c, CHANNELS):
        channel = start + tl.arange(0, CHANNELS)
        weight = tl.load(weights + target * c + channel, mask=channel < c, other=0.0)
        wanted = (channel[:, None] < c) & (cell[None, :] < hw)
        values = activations + (image * c + channel[:, None]) * hw + cell[None, :]
        total += tl.sum(weight[:, None] * tl.load(values, mask=wanted, other=0.0).to(tl.float32), 0)
    tl.store(grid + target * hw + cell, tl.where(total <= 0, 0.0, total), mask=cell < hw)
