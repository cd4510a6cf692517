"""Weight of each cluster: the mean of its filtered mean gradient map, without storing the maps.

PyTorch reference: `cfcam_gpu.cfcam.weighting.pooled_weights`.

Mathematics. m = mean of the members' maps, summed over blocks of channels in order. Each cell
becomes m + Σ w·(m' - m) / Σ w over the window's cells m' (reflect-101 at the border), with
w = exp(-(dy² + dx²) / 2σ_s²) and, for the bilateral filters, times exp(-(m' - m)² / 2σ_r²).
Averaging differences keeps small variations of a large map. The weight is the mean over the cells.

Least work: 4·h·w bytes read for each channel in a cluster; about 10 operations for each pair of a
cell of the map and a cell of the window.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Filters that the kernel has -> (whether the window is circular, whether there is a range term). `none` is
#: a window of radius 0. The other filters run in PyTorch.
FILTERS: dict[str, tuple[bool, bool]] = {
    "bilateral": (True, True),
    "bilateral_square": (False, True),
    "gaussian": (False, False),
    "none": (False, False),
}

#: Number of gradient values that are read at once.
_TILE = 4096

#: Cells of the largest map that one program filters. A larger one is cut into tiles of this many cells, a
#: program each: one program would spill its registers, and take most of a minute to compile.
_MOST_CELLS = 4096
_TILE_CELLS = 1024


def pooled_weights(
    gradients: Tensor,
    labels: Tensor,
    n_clusters: Tensor,
    slots: int,
    name: str,
    radius: int,
    sigma_space: float,
    sigma_range: float,
    channels: int | None = None,
    tile_cells: int | None = None,
) -> Tensor:
    """Weight (B,K,slots) float32 of each cluster for each target; zeros in slots without a cluster.

    Launch: a grid (B · slots, K); a program whose slot has no cluster ends at once. Maps of more than
    `_MOST_CELLS` cells: two grids (B · slots, tiles, K), with the mean maps in memory between them, and a
    sum over the tiles. CUDA allows 65,535 programs along all axes but the first.

    Args:
        gradients: (B,K,C,h,w) float32, contiguous.
        labels: (B,C) int64, below 0 outside any cluster.
        n_clusters: (B,) int64, at most `slots`.
        slots: number of clusters to make room for; a bound from shapes, so that no value is read back.
        name: a key of `FILTERS`.
        radius: of the filter's window, in cells, at most min(h, w) - 1.
        sigma_space: spatial standard deviation, in cells.
        sigma_range: range standard deviation, in units of the gradient.
        channels: number of channels read at once, a power of two; None: `_TILE` values.
        tile_cells: number of cells of a tile, a power of two from 16; larger maps are cut. None: as above.
    """
    b, k, c, h, w = gradients.shape
    circle, use_range = FILTERS[name]
    whole = h * w <= (tile_cells or _MOST_CELLS)
    cells = max(16, triton.next_power_of_2(h * w)) if whole else tile_cells or _TILE_CELLS
    tiles = triton.cdiv(h * w, cells)
    channels = channels or max(1, min(_TILE // cells, triton.next_power_of_2(c)))
    pooled = torch.zeros(b, k, slots, tiles, device=gradients.device)
    radius = 0 if name == "none" else radius
    if tiles > 1:
        means = torch.empty(b, k, slots, h * w, device=gradients.device)
        grid = (b * slots, tiles, k)
        _means[grid](gradients, labels, n_clusters, means, slots, c, h * w, cells, channels)
        _pooled_tiles[grid](
            means, n_clusters, pooled, slots, h, w, radius, float(sigma_space), float(sigma_range),
            circle, use_range, cells,
        )  # fmt: skip
        return pooled.sum(3)
    _pooled[(b * slots, k)](
        gradients,
        labels,
        n_clusters,
        pooled,
        slots,
        c,
        h,
        w,
        radius,
        float(sigma_space),
        float(sigma_range),
        circle,
        use_range,
        cells,
        channels,
    )
    return pooled[:, :, :, 0]


@triton.jit
def _pooled(
    gradients: tl.tensor,
    labels: tl.tensor,
    n_clusters: tl.tensor,
    pooled: tl.tensor,
    slots: tl.tensor,
    c: tl.tensor,
    h: tl.tensor,
    w: tl.tensor,
    radius: tl.tensor,
    sigma_space: tl.tensor,
    sigma_range: tl.tensor,
    CIRCLE: tl.constexpr,
    RANGE: tl.constexpr,
    CELLS: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:
    """The weight of one cluster of one image for one target."""
    cluster = tl.program_id(0) % slots
    image = (tl.program_id(0) // slots).to(tl.int64)
    if cluster < tl.load(n_clusters + image):
        target = image * tl.num_programs(1) + tl.program_id(1)
        maps = gradients + target * c * h * w
        cell = tl.arange(0, CELLS)
        mean = _mean_map(maps, labels + image * c, cluster, cell, c, h * w, CELLS, CHANNELS)
        total, change = tl.zeros((CELLS,), tl.float32), tl.zeros((CELLS,), tl.float32)
        for dy in range(-radius, radius + 1):
            for dx in range(-radius, radius + 1):
                square = dy * dy + dx * dx
                if (not CIRCLE) or (square <= radius * radius):
                    difference = tl.gather(mean, _reflected(cell, dy, dx, h, w), 0) - mean
                    weight = _weight(difference, square, sigma_space, sigma_range, RANGE)
                    total += weight
                    change += weight * difference
        filtered = tl.where(cell < h * w, mean + change / total, 0.0)
        tl.store(pooled + target * slots + cluster, tl.sum(filtered, 0) / (h * w))


@triton.jit
def _means(
    gradients: tl.tensor,
    labels: tl.tensor,
    n_clusters: tl.tensor,
    means: tl.tensor,
    slots: tl.tensor,
    c: tl.tensor,
    hw: tl.tensor,
    CELLS: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:
    """One tile of the mean map of one cluster of one image for one target."""
    cluster = tl.program_id(0) % slots
    image = (tl.program_id(0) // slots).to(tl.int64)
    if cluster < tl.load(n_clusters + image):
        target = image * tl.num_programs(2) + tl.program_id(2)
        cell = tl.program_id(1) * CELLS + tl.arange(0, CELLS)
        maps = gradients + target * c * hw
        mean = _mean_map(maps, labels + image * c, cluster, cell, c, hw, CELLS, CHANNELS)
        tl.store(means + (target * slots + cluster) * hw + cell, mean, mask=cell < hw)


@triton.jit
def _pooled_tiles(
    means: tl.tensor,
    n_clusters: tl.tensor,
    pooled: tl.tensor,
    slots: tl.tensor,
    h: tl.tensor,
    w: tl.tensor,
    radius: tl.tensor,
    sigma_space: tl.tensor,
    sigma_range: tl.tensor,
    CIRCLE: tl.constexpr,
    RANGE: tl.constexpr,
    CELLS: tl.constexpr,
) -> None:
    """One tile's part of the weight of one cluster of one image for one target."""
    cluster = tl.program_id(0) % slots
    image = (tl.program_id(0) // slots).to(tl.int64)
    if cluster < tl.load(n_clusters + image):
        tile = tl.program_id(1)
        slot = (image * tl.num_programs(2) + tl.program_id(2)) * slots + cluster
        cell = tile * CELLS + tl.arange(0, CELLS)
        inside = cell < h * w
        mean = tl.load(means + slot * h * w + cell, mask=inside, other=0.0)
        total, change = tl.zeros((CELLS,), tl.float32), tl.zeros((CELLS,), tl.float32)
        for dy in range(-radius, radius + 1):
            for dx in range(-radius, radius + 1):
                square = dy * dy + dx * dx
                if (not CIRCLE) or (square <= radius * radius):
                    other = means + slot * h * w + _reflected(cell, dy, dx, h, w)
                    difference = tl.load(other, mask=inside, other=0.0) - mean
                    weight = _weight(difference, square, sigma_space, sigma_range, RANGE)
                    total += weight
                    change += weight * difference
        filtered = tl.where(inside, mean + change / total, 0.0)
        tl.store(pooled + slot * tl.num_programs(1) + tile, tl.sum(filtered, 0) / (h * w))


@triton.jit
def _weight(
    difference: tl.tensor,
    square: tl.tensor,
    sigma_space: tl.tensor,
    sigma_range: tl.tensor,
    RANGE: tl.constexpr,
) -> tl.tensor:
    """Weight of cells at a squared distance, whose values differ by `difference`."""
    exponent = square / (sigma_space * sigma_space)
    if RANGE:
        scaled = difference / sigma_range
        exponent = exponent + scaled * scaled
    return tl.exp(-0.5 * exponent)


@triton.jit
def _mean_map(
    maps: tl.tensor,
    labels: tl.tensor,
    cluster: tl.tensor,
    cell: tl.tensor,
    c: tl.tensor,
    hw: tl.tensor,
    CELLS: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> tl.tensor:
    """Mean of the cluster's maps at the cells (CELLS,); the maps of other channels are not read."""
    cell = cell[None, :]
    total = tl.zeros((CELLS,), tl.float32)
    size = tl.zeros((CHANNELS,), tl.int32)
    for start in range(0, c, CHANNELS):
        channel = start + tl.arange(0, CHANNELS)
        member = tl.load(labels + channel, mask=channel < c, other=-1) == cluster
        wanted = member[:, None] & (cell < hw)
        total += tl.sum(tl.load(maps + channel[:, None] * hw + cell, mask=wanted, other=0.0), 0)
        size += member.to(tl.int32)
    return total / tl.sum(size, 0)


@triton.jit
def _reflected(cell: tl.tensor, dy: tl.tensor, dx: tl.tensor, h: tl.tensor, w: tl.tensor) -> tl.tensor:
    """Position of the cell (dy, dx) away, mirrored at the border; a padding cell stays where it is."""
    y = (h - 1) - tl.abs((h - 1) - tl.abs(cell // w + dy))
    x = (w - 1) - tl.abs((w - 1) - tl.abs(cell % w + dx))
    return tl.where(cell < h * w, y * w + x, cell)
