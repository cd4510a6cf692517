"""The map of weighting `spatial`: positive parts of filtered gradient maps times activations, none of them stored.

PyTorch reference: `cfcam_gpu.cfcam.weighting.spatial_weights` and its sum in `class_map`.

Mathematics. grid = max(0, Σ_c max(0, W_c)·A_c), where W_c of a dominant channel is its own gradient map, filtered, that
of a channel in a cluster the cluster's mean gradient map, filtered, and that of noise 0; the filters are those of
`filters`. NaN stays NaN.

Least work: the gradients and activations of dominant and clustered channels are read once; about 10 operations for each
pair of a cell of a filtered map and a cell of its window.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .cluster_filter import filtered_means
from .filters import FILTERS, filter_window, filtered_at

#: Programs for the channels of a map; each tile of a larger map has as many fewer.
_PARTS = 64

#: Most cells of a tile: two for each thread.
_CELLS = 256


def spatial_map(
    activations: Tensor,
    gradients: Tensor,
    labels: Tensor,
    n_clusters: Tensor,
    slots: int,
    name: str,
    radius: int,
    sigma_space: float,
    sigma_range: float,
    cells: int | None = None,
) -> Tensor:
    """The grid (B,K,h,w) float32, not negative.

    Launches: those of `filtered_means`, and `_PARTS` programs for each image and target, or one for each tile of a
    map that has more tiles; PyTorch adds what the programs of a cell found.

    Args:
        activations: (B,C,h,w) float32, bfloat16 or float16, contiguous.
        gradients: (B,K,C,h,w) float32, contiguous.
        labels: (B,C) int64: cluster 0, 1, …; -1 noise; -2 dominant.
        n_clusters, slots, name, radius, sigma_space, sigma_range: as for `cluster_filter.pooled_weights`.
        cells: number of cells of a tile, a power of two from 16; None: at most `_CELLS`.
    """
    b, k, c, h, w = gradients.shape
    cells = cells or max(16, min(_CELLS, triton.next_power_of_2(h * w)))
    tiles = triton.cdiv(h * w, cells)
    parts = max(1, min(_PARTS // tiles, c))
    settings = (name, radius, sigma_space, sigma_range)
    filtered = filtered_means(gradients, labels, n_clusters, slots, *settings, cells)
    window = filter_window(name, h, w, *settings[1:])
    sums = torch.empty(b, k, parts, h * w, device=gradients.device)
    _spatial[(b * k * tiles * parts,)](
        activations, gradients, labels, filtered, sums, slots, parts, tiles, c, k, *window, *FILTERS[name], cells,
        num_warps=max(1, cells // 64),
    )  # fmt: skip
    return sums.sum(2).relu_().view(b, k, h, w)


@triton.jit
def _spatial(
    activations: tl.tensor,
    gradients: tl.tensor,
    labels: tl.tensor,
    filtered: tl.tensor,
    sums: tl.tensor,
    slots: tl.tensor,
    parts: tl.tensor,
    tiles: tl.tensor,
    c: tl.tensor,
    k: tl.tensor,
    h: tl.tensor,
    w: tl.tensor,
    radius: tl.tensor,
    sigma_space: tl.tensor,
    sigma_range: tl.tensor,
    CIRCLE: tl.constexpr,
    RANGE: tl.constexpr,
    RELATIVE: tl.constexpr,
    CELLS: tl.constexpr,
) -> None:
    """One tile of the sum over every `parts`-th channel of one image for one target."""
    part, place = tl.program_id(0) % parts, tl.program_id(0) // parts
    target = (place // tiles).to(tl.int64)
    image = target // k
    hw = h * w
    cell = place % tiles * CELLS + tl.arange(0, CELLS)
    total = tl.zeros((CELLS,), tl.float32)
    for channel in range(part, c, parts):
        label = tl.load(labels + image * c + channel)
        if label != -1:
            if label == -2:
                own = gradients + (target * c + channel) * hw
                weight = filtered_at(
                    own, cell, h, w, radius, sigma_space, sigma_range, CIRCLE, RANGE, RELATIVE, CELLS
                )
            else:
                cluster = filtered + (target * slots + label) * hw
                weight = tl.load(cluster + cell, mask=cell < hw, other=0.0)
            values = tl.load(activations + (image * c + channel) * hw + cell, mask=cell < hw, other=0.0)
            total += tl.where(weight <= 0, 0.0, weight) * values.to(tl.float32)
    tl.store(sums + (target * parts + part) * hw + cell, total, mask=cell < hw)
