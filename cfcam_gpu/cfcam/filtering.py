"""Filters for the clusters' mean gradient maps, batched: maps (M,h,w) in, maps (M,h,w) out.

`FILTERS` holds them by the name in `CFCAMConfig.filter`. A window wider than reflection at the
map's border allows is made narrower, see `CFCAMConfig.radius`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cfcam_gpu._utils.precision import widest
from cfcam_gpu.cfcam.volumes import VolumeConfig, filter_volumes
from cfcam_gpu.config import CFCAMConfig

#: Memory for the unfolded windows of the maps that are filtered together. In bytes.
CHUNK_BYTES = 128 * 2**20


def bilateral(maps: Tensor, config: CFCAMConfig) -> Tensor:
    """Bilateral filter with a circular window and reflect-101 borders.

    Source: equal to `cv2.bilateralFilter`.

    Example:
        >>> step = torch.tensor([[[0.0, 0.0, 1.0, 1.0]]]).expand(1, 3, 4)  # far above sigma_range: it stays
        >>> bilateral(step, CFCAMConfig(sigma_range=0.1)).round()[0, 0]
        tensor([0., 0., 1., 1.])
    """
    return _weighted_means(maps, config, circle=True, ranged=True)


def bilateral_relative(maps: Tensor, config: CFCAMConfig) -> Tensor:
    """`bilateral` with `sigma_range` in standard deviations of each map: the gradients' scale does not matter.

    Example:
        >>> maps, config = torch.tensor([[[0.0, 1.0], [2.0, 3.0]]]), CFCAMConfig(sigma_range=1.0)
        >>> torch.allclose(bilateral_relative(1000 * maps, config), 1000 * bilateral_relative(maps, config))
        True
    """
    spread = maps.flatten(1).std(1, correction=0)[:, None, None]
    scale = torch.where(spread > 0, spread, 1)
    return bilateral(maps / scale, config) * scale


def bilateral_square(maps: Tensor, config: CFCAMConfig) -> Tensor:
    """Bilateral filter with the full square window and reflect-101 borders.

    Source: equal to `kornia.filters.bilateral_blur`, which copies its sigmas to the device: a wait.

    Example:
        >>> bilateral_square(torch.ones(1, 2, 2), CFCAMConfig())
        tensor([[[1., 1.],
                 [1., 1.]]])
    """
    return _weighted_means(maps, config, circle=False, ranged=True)


def gaussian(maps: Tensor, config: CFCAMConfig) -> Tensor:
    """Gaussian filter with reflect-101 borders.

    Source: the filter that the paper describes (section 3.3); equal to `kornia.filters.gaussian_blur2d`,
    whose convolution may run in TF32.

    Example:
        >>> dot = torch.zeros(1, 5, 5)
        >>> dot[0, 2, 2] = 1
        >>> gaussian(dot, CFCAMConfig(sigma_space=1.0, diameter=3))[0, 2]
        tensor([0.0000, 0.1238, 0.2042, 0.1238, 0.0000])
    """
    return _weighted_means(maps, config, circle=False, ranged=False)


def _weighted_means(maps: Tensor, config: CFCAMConfig, *, circle: bool, ranged: bool) -> Tensor:
    """The weighted mean of each cell's window, with reflect-101 borders.

    The weights fall with the distance of the cells and, if `ranged`, with the difference of their
    values. Nothing is copied to the device, and no convolution is used.

    Args:
        circle: whether the window is the circle in the square.
    """
    h, w = maps.shape[-2:]
    radius = config.radius(h, w)
    size = 2 * radius + 1
    offsets = torch.arange(-radius, radius + 1, device=maps.device, dtype=maps.dtype).square_()
    squares = offsets[:, None] + offsets
    exponents = squares * (-0.5 / config.sigma_space**2)
    if circle:
        exponents.masked_fill_(squares > radius**2, -torch.inf)
    padded = F.pad(maps[:, None], [radius] * 4, mode="reflect") if radius else maps[:, None]
    difference = _windows(padded, size, size) - maps.reshape(len(maps), 1, h * w)
    weights = exponents.reshape(1, size * size, 1)
    if ranged:
        weights = weights - (difference * (0.5**0.5 / config.sigma_range)).square_()
    weights = weights.exp()
    # Averaging the differences instead of the values keeps small variations of a large map.
    change = (weights * difference).sum(1) / weights.sum(1)
    return maps + change.view_as(maps)


def _windows(padded: Tensor, height: int, width: int) -> Tensor:
    """(n, 1, H, W) -> (n, height · width, windows): the cells of each window, as `F.unfold`.

    `F.unfold` launches a kernel on a GPU for each of the n maps, which took nine tenths of the engine's time there.
    """
    views = padded[:, 0].unfold(1, height, 1).unfold(2, width, 1)
    return views.permute(0, 3, 4, 1, 2).reshape(len(padded), height * width, -1)


def upstream(maps: Tensor, config: CFCAMConfig) -> Tensor:
    """The published code's filter, for the preset `upstream` only: one kernel as large as the map, zero padding.

    The kernel's spatial term is centred on (h/2, w/2), half a cell off on odd sizes; its range term
    measures from the map's mean. Neither is what a bilateral filter computes. Computed in float64,
    since the range term takes small differences of gradients that may be large.

    Source: published code.

    Example:
        >>> upstream(torch.zeros(1, 5, 5), CFCAMConfig()).abs().max()
        tensor(0.)
    """
    dtype, maps = maps.dtype, widest(maps)
    h, w = maps.shape[-2:]
    rows = torch.arange(h, device=maps.device, dtype=maps.dtype) - h / 2
    columns = torch.arange(w, device=maps.device, dtype=maps.dtype) - w / 2
    distance = rows[:, None] ** 2 + columns[None, :] ** 2
    spread = maps - maps.mean((1, 2), keepdim=True)
    kernels = torch.exp(-distance / (2 * config.sigma_space**2) - spread**2 / (2 * config.sigma_range**2))
    kernels = kernels / (kernels.sum((1, 2), keepdim=True) + 1e-6)
    left, top = (w - 1) // 2, (h - 1) // 2
    padded = F.pad(maps[:, None], (left, w - 1 - left, top, h - 1 - top))
    # Windows, since a convolution may run in TF32.
    filtered = (_windows(padded, h, w) * kernels.view(-1, h * w, 1)).sum(1)
    return filtered.view_as(maps).to(dtype)


def unfiltered(maps: Tensor, _config: CFCAMConfig) -> Tensor:
    """The maps as they are.

    Example:
        >>> unfiltered(torch.eye(2)[None], CFCAMConfig())
        tensor([[[1., 0.],
                 [0., 1.]]])
    """
    return maps


#: Name in the configuration -> (maps (M,h,w), config) -> filtered maps (M,h,w).
FILTERS: dict[str, Callable[[Tensor, CFCAMConfig], Tensor]] = {
    "bilateral": bilateral,
    "bilateral_relative": bilateral_relative,
    "bilateral_square": bilateral_square,
    "gaussian": gaussian,
    "upstream": upstream,
    "none": unfiltered,
}


def filter_maps(maps: Tensor, config: CFCAMConfig) -> Tensor:
    """The maps (M,h,w) float32 through the configured filter, as many at once as fit in `CHUNK_BYTES`.

    Example:
        >>> filter_maps(torch.full((2, 7, 7), 3.0), CFCAMConfig()).unique()
        tensor([3.])
    """
    if maps.numel() == 0:
        return maps
    if isinstance(config, VolumeConfig):
        return filter_volumes(maps, config)
    h, w = maps.shape[-2:]
    window = max((2 * config.radius(h, w) + 1) ** 2, h * w)
    step = max(1, CHUNK_BYTES // (maps.element_size() * h * w * window))
    return torch.cat([FILTERS[config.filter](part, config) for part in maps.split(step)])
