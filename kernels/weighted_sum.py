"""The grid: activations summed over the channels with weights, then ReLU, in one pass.

PyTorch reference: `cfcam_gpu.cfcam.weighting.activation_map` and `channel_weights`.

Mathematics. grid = max(0, Σ_c w_c A_c), in float32 over blocks of channels in order; NaN stays NaN. The weight
w_c of a channel in a cluster is the cluster's, that of a dominant channel its own, that of noise 0.

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
    activations: Tensor,
    weights: Tensor,
    labels: Tensor | None = None,
    pooled: Tensor | None = None,
    channels: int = _CHANNELS,
    cells: int = _CELLS,
) -> Tensor:
    """The grid (B,K,h,w) float32, not negative.

    Launch: a program for each block of cells of a map.

    Args:
        activations: (B,C,h,w) float32, bfloat16 or float16, contiguous.
        weights: (B,K,C) float32.
        labels: (B,C) int64: cluster 0, 1, …; -1 noise; -2 dominant; None: the weights are used as they are.
        pooled: with labels, (B,K,slots) float32, weights of the clusters.
        channels: number of channels of a block, a power of two.
        cells: number of cells of a block, a power of two.
    """
    b, c, h, w = activations.shape
    k = weights.shape[1]
    grid = torch.empty(b, k, h, w, device=activations.device)
    blocks = triton.cdiv(h * w, cells)
    weights = weights.contiguous()
    clustered = labels is not None and pooled is not None
    _weighted_sum[(b * k * blocks,)](
        activations,
        weights,
        labels if clustered else weights,
        pooled if clustered else weights,
        grid,
        c,
        k,
        h * w,
        pooled.shape[2] if pooled is not None else 0,
        blocks,
        clustered,
        channels,
        cells,
    )
    return grid


@triton.jit
def _weighted_sum(
    activations: tl.tensor,
    weights: tl.tensor,
    labels: tl.tensor,
    pooled: tl.tensor,
    grid: tl.tensor,
    c: tl.tensor,
    k: tl.tensor,
    hw: tl.tensor,
    slots: tl.tensor,
    blocks: tl.tensor,
    CLUSTERED: tl.constexpr,
    CHANNELS: tl.constexpr,
    CELLS: tl.constexpr,
) -> None:
    """The sum of one block of cells of one image for one target."""
    target = (tl.program_id(0) // blocks).to(tl.int64)
    image = target // k
    cell = tl.program_id(0) % blocks * CELLS + tl.arange(0, CELLS)
    total = tl.zeros((CELLS,), tl.float32)
    for start in range(0, c, CHANNELS):
        channel = start + tl.arange(0, CHANNELS)
        weight = tl.load(weights + target * c + channel, mask=channel < c, other=0.0)
        if CLUSTERED:
            label = tl.load(labels + image * c + channel, mask=channel < c, other=-1)
            of_cluster = tl.load(pooled + target * slots + label, mask=label >= 0, other=0.0)
            weight = tl.where(label == -2, weight, of_cluster)
        wanted = (channel[:, None] < c) & (cell[None, :] < hw)
        values = activations + (image * c + channel[:, None]) * hw + cell[None, :]
        total += tl.sum(weight[:, None] * tl.load(values, mask=wanted, other=0.0).to(tl.float32), 0)
    tl.store(grid + target * hw + cell, tl.where(total <= 0, 0.0, total), mask=cell < hw)
