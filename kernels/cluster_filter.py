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

#: Programs for each image and target: clusters are few, and slots many.
_PROGRAMS = 4


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

    Launch: `_PROGRAMS` programs for each image and target, which share the clusters. Maps of more than
    `_MOST_CELLS` cells: as many for each tile, two times, with the mean maps in memory between them, and a
    sum over the tiles.

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
    pooled = torch.empty(b, k, slots, tiles, device=gradients.device)
    radius = 0 if name == "none" else radius
    window = (h, w, radius, float(sigma_space), float(sigma_range))
    programs = min(_PROGRAMS, slots)
    # With 4 warps the largest map needs more registers than a thread has.
    warps = 8 if cells > 1024 else 4
    grid = (b * k * tiles * programs,)
    if tiles == 1:
        _pooled[grid](
            gradients, labels, n_clusters, pooled, slots, programs, c, k, *window, circle, use_range, cells, channels,
            num_warps=warps,
        )  # fmt: skip
        return pooled[:, :, :, 0]
    means = torch.empty(b, k, slots, h * w, device=gradients.device)
    _means[grid](gradients, labels, n_clusters, means, slots, programs, tiles, c, k, h * w, cells, channels)
    _pooled_tiles[grid](
        means, n_clusters, pooled, slots, programs, tiles, k, *window, circle, use_range, cells
    )
    return pooled.sum(3)


@triton.jit
def _pooled(
    gradients: tl.tensor,
    labels: tl.tensor,
    n_clusters: tl.tensor,
    pooled: tl.tensor,
    slots: tl.tensor,
    programs: tl.tensor,
    c: tl.tensor,
    k: tl.tensor,
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
    """The weights of one image for one target, of every `programs`-th cluster."""
    target = (tl.program_id(0) // programs).to(tl.int64)
    image = target // k
    first = tl.program_id(0) % programs
    count = tl.load(n_clusters + image).to(tl.int32)
    cell = tl.arange(0, CELLS)
    for cluster in range(first, count, programs):
        mean = _mean_map(
            gradients + target * c * h * w, labels + image * c, cluster, cell, c, h * w, CELLS, CHANNELS
        )
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
    _clear_rest(pooled + target * slots, first, count, slots, programs, 1)


@triton.jit
def _means(
    gradients: tl.tensor,
    labels: tl.tensor,
    n_clusters: tl.tensor,
    means: tl.tensor,
    slots: tl.tensor,
    programs: tl.tensor,
    tiles: tl.tensor,
    c: tl.tensor,
    k: tl.tensor,
    hw: tl.tensor,
    CELLS: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:
    """One tile of the mean maps of one image for one target, of every `programs`-th cluster."""
    place = tl.program_id(0) // programs
    target = (place // tiles).to(tl.int64)
    image = target // k
    count = tl.load(n_clusters + image).to(tl.int32)
    cell = place % tiles * CELLS + tl.arange(0, CELLS)
    for cluster in range(tl.program_id(0) % programs, count, programs):
        mean = _mean_map(
            gradients + target * c * hw, labels + image * c, cluster, cell, c, hw, CELLS, CHANNELS
        )
        tl.store(means + (target * slots + cluster) * hw + cell, mean, mask=cell < hw)


@triton.jit
def _pooled_tiles(
    means: tl.tensor,
    n_clusters: tl.tensor,
    pooled: tl.tensor,
    slots: tl.tensor,
    programs: tl.tensor,
    tiles: tl.tensor,
    k: tl.tensor,
    h: tl.tensor,
    w: tl.tensor,
    radius: tl.tensor,
    sigma_space: tl.tensor,
    sigma_range: tl.tensor,
    CIRCLE: tl.constexpr,
    RANGE: tl.constexpr,
    CELLS: tl.constexpr,
) -> None:
    """One tile's part of the weights of one image for one target, of every `programs`-th cluster."""
    place = tl.program_id(0) // programs
    target = (place // tiles).to(tl.int64)
    first, tile = tl.program_id(0) % programs, place % tiles
    count = tl.load(n_clusters + target // k).to(tl.int32)
    cell = tile * CELLS + tl.arange(0, CELLS)
    inside = cell < h * w
    for cluster in range(first, count, programs):
        slot = target * slots + cluster
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
        tl.store(pooled + slot * tiles + tile, tl.sum(filtered, 0) / (h * w))
    _clear_rest(pooled + target * slots * tiles + tile, first, count, slots, programs, tiles)


@triton.jit
def _clear_rest(
    pooled: tl.tensor,
    first: tl.tensor,
    count: tl.tensor,
    slots: tl.tensor,
    programs: tl.tensor,
    stride: tl.tensor,
) -> None:
    """Zeros for the slots without a cluster; each program clears its share of them."""
    lane = tl.arange(0, 128)
    for start in range(count + first * 128, slots, programs * 128):
        slot = start + lane
        tl.store(pooled + slot * stride, 0.0, mask=slot < slots)


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
