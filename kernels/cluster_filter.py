"""Weight of each cluster: the mean of its filtered mean gradient map, without storing the maps.

PyTorch reference: `cfcam_gpu.cfcam.weighting.pooled_weights`.

Mathematics. The mean of the members' maps, summed over blocks of channels in order, goes through a filter of
`filters`. The weight is the mean over the cells.

Least work: 4·h·w bytes read for each channel in a cluster; about 10 operations for each pair of a
cell of the map and a cell of the window.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .filters import FILTERS, exponents, filter_window, filtered_at, mirrored, spread, weight_of

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
        sigma_range: range standard deviation, in units of the gradient or in standard deviations of the map.
        channels: number of channels read at once, a power of two; None: `_TILE` values.
        tile_cells: number of cells of a tile, a power of two from 16; larger maps are cut. None: as above.
    """
    b, k, c, h, w = gradients.shape
    whole = h * w <= (tile_cells or _MOST_CELLS)
    cells = max(16, triton.next_power_of_2(h * w)) if whole else tile_cells or _TILE_CELLS
    tiles = triton.cdiv(h * w, cells)
    channels = channels or max(1, min(_TILE // cells, triton.next_power_of_2(c)))
    pooled = torch.empty(b, k, slots, tiles, device=gradients.device)
    window = filter_window(name, h, w, radius, sigma_space, sigma_range)
    programs = min(_PROGRAMS, slots)
    # With 4 warps the largest map needs more registers than a thread has.
    warps = 8 if cells > 1024 else 4
    grid = (b * k * tiles * programs,)
    if tiles == 1:
        _pooled[grid](
            gradients, labels, n_clusters, pooled, slots, programs, c, k, *window, *FILTERS[name], cells, channels,
            num_warps=warps,
        )  # fmt: skip
        return pooled[:, :, :, 0]
    means = _mean_maps(gradients, labels, n_clusters, slots, cells, channels)
    _pooled_tiles[grid](means, n_clusters, pooled, slots, programs, tiles, k, *window, *FILTERS[name], cells)
    return pooled.sum(3)


def filtered_means(
    gradients: Tensor,
    labels: Tensor,
    n_clusters: Tensor,
    slots: int,
    name: str,
    radius: int,
    sigma_space: float,
    sigma_range: float,
    cells: int,
) -> Tensor:
    """Filtered mean gradient maps (B,K,slots,h·w) float32 of the clusters; undefined in slots without a cluster.

    Launches: the mean maps, and their filter; `_PROGRAMS` programs for each tile of an image and target.

    Args:
        gradients, labels, n_clusters, slots, name, radius, sigma_space, sigma_range: as for `pooled_weights`.
        cells: number of cells of a tile, a power of two from 16.
    """
    b, k, c, h, w = gradients.shape
    channels = max(1, min(_TILE // cells, triton.next_power_of_2(c)))
    means = _mean_maps(gradients, labels, n_clusters, slots, cells, channels)
    tiles, programs = triton.cdiv(h * w, cells), min(_PROGRAMS, slots)
    filtered = torch.empty_like(means)
    window = filter_window(name, h, w, radius, sigma_space, sigma_range)
    _filtered[(b * k * tiles * programs,)](
        means, n_clusters, filtered, slots, programs, tiles, k, *window, *FILTERS[name], cells
    )
    return filtered


def _mean_maps(
    gradients: Tensor, labels: Tensor, n_clusters: Tensor, slots: int, cells: int, channels: int
) -> Tensor:
    """Mean gradient maps (B,K,slots,h·w) float32 of the clusters; undefined in slots without a cluster."""
    b, k, c, h, w = gradients.shape
    means = torch.empty(b, k, slots, h * w, device=gradients.device)
    tiles, programs = triton.cdiv(h * w, cells), min(_PROGRAMS, slots)
    grid = (b * k * tiles * programs,)
    _means[grid](gradients, labels, n_clusters, means, slots, programs, tiles, c, k, h * w, cells, channels)
    return means


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
    RELATIVE: tl.constexpr,
    CELLS: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:
    """The weights of one image for one target, of every `programs`-th cluster."""
    target = (tl.program_id(0) // programs).to(tl.int64)
    image = target // k
    first = tl.program_id(0) % programs
    count = tl.load(n_clusters + image).to(tl.int32)
    cell = tl.arange(0, CELLS)
    inside, y, x = cell < h * w, cell // w, cell % w
    for cluster in range(first, count, programs):
        mean = _mean_map(
            gradients + target * c * h * w, labels + image * c, cluster, cell, c, h * w, CELLS, CHANNELS
        )
        deviation = sigma_range
        if RELATIVE:
            deviation *= spread(mean, inside, h * w)
        space, scale = exponents(sigma_space, deviation)
        total, change = tl.zeros((CELLS,), tl.float32), tl.zeros((CELLS,), tl.float32)
        for dy in range(-radius, radius + 1):
            row = mirrored(y + dy, h) * w
            for dx in range(-radius, radius + 1):
                square = dy * dy + dx * dx
                if (not CIRCLE) or (square <= radius * radius):
                    other = tl.where(inside, row + mirrored(x + dx, w), cell)
                    difference = tl.gather(mean, other, 0) - mean
                    weight = weight_of(difference, square, space, scale, RANGE)
                    total += weight
                    change += weight * difference
        filtered = tl.where(inside, mean + change / total, 0.0)
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
    RELATIVE: tl.constexpr,
    CELLS: tl.constexpr,
) -> None:
    """One tile's part of the weights of one image for one target, of every `programs`-th cluster."""
    place = tl.program_id(0) // programs
    target = (place // tiles).to(tl.int64)
    first, tile = tl.program_id(0) % programs, place % tiles
    count = tl.load(n_clusters + target // k).to(tl.int32)
    cell = tile * CELLS + tl.arange(0, CELLS)
    for cluster in range(first, count, programs):
        slot = target * slots + cluster
        filtered = filtered_at(
            means + slot * h * w, cell, h, w, radius, sigma_space, sigma_range, CIRCLE, RANGE, RELATIVE, CELLS
        )
        tl.store(pooled + slot * tiles + tile, tl.sum(filtered, 0) / (h * w))
    _clear_rest(pooled + target * slots * tiles + tile, first, count, slots, programs, tiles)


@triton.jit
def _filtered(
    means: tl.tensor,
    n_clusters: tl.tensor,
    filtered: tl.tensor,
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
    RELATIVE: tl.constexpr,
    CELLS: tl.constexpr,
) -> None:
    """One tile of the filtered mean maps of one image for one target, of every `programs`-th cluster."""
    place = tl.program_id(0) // programs
    target = (place // tiles).to(tl.int64)
    count = tl.load(n_clusters + target // k).to(tl.int32)
    cell = place % tiles * CELLS + tl.arange(0, CELLS)
    for cluster in range(tl.program_id(0) % programs, count, programs):
        first = (target * slots + cluster) * h * w
        result = filtered_at(
            means + first, cell, h, w, radius, sigma_space, sigma_range, CIRCLE, RANGE, RELATIVE, CELLS
        )
        tl.store(filtered + first + cell, result, mask=cell < h * w)


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
