"""Maps of volumes, (…,d,h,w): CF-CAM's filters in three dimensions, and the heatmap of a volume."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cfcam_gpu.config import CFCAMConfig
from cfcam_gpu.errors import ConfigError

#: Memory for the windows of the maps that are filtered together. In bytes.
CHUNK_BYTES = 128 * 2**20


@dataclass(frozen=True)
class VolumeConfig(CFCAMConfig):
    """Parameters of CF-CAM for maps whose `depth` slices lie below each other, (…,d·h,w)."""

    depth: int = 1


def volume_config(config: CFCAMConfig, depth: int) -> VolumeConfig:
    """The parameters for maps of `depth` slices.

    Raises:
        ConfigError: a filter that has no form in three dimensions.

    Example:
        >>> volume_config(CFCAMConfig(filter="gaussian"), 4).depth
        4
    """
    if config.filter not in VOLUME_FILTERS:
        raise ConfigError(
            f"filter {config.filter!r} has no form for volumes; choose one of: {', '.join(VOLUME_FILTERS)}"
        )
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(CFCAMConfig)}
    return VolumeConfig(**values, depth=depth)


def filter_volumes(maps: Tensor, config: VolumeConfig) -> Tensor:
    """Maps (M,d·h,w) through the configured filter in three dimensions.

    Windows are balls where they are circles in two dimensions, and cubes where they are squares; borders are
    reflect-101 in all three.

    Example:
        >>> filter_volumes(torch.full((2, 6, 4), 3.0), VolumeConfig(depth=3)).unique()
        tensor([3.])
    """
    volumes = maps.unflatten(1, (config.depth, -1))
    d, h, w = volumes.shape[1:]
    window = (2 * config.radius(min(d, h), w) + 1) ** 3
    step = max(1, CHUNK_BYTES // (maps.element_size() * d * h * w * window))
    run = VOLUME_FILTERS[config.filter]
    return torch.cat([run(part, config) for part in volumes.split(step)]).flatten(1, 2)


def _bilateral(maps: Tensor, config: CFCAMConfig) -> Tensor:
    return _weighted_means(maps, config, ball=True, ranged=True)


def _bilateral_relative(maps: Tensor, config: CFCAMConfig) -> Tensor:
    spread = maps.flatten(1).std(1, correction=0)[:, None, None, None]
    scale = torch.where(spread > 0, spread, 1)
    return _bilateral(maps / scale, config) * scale


def _bilateral_square(maps: Tensor, config: CFCAMConfig) -> Tensor:
    return _weighted_means(maps, config, ball=False, ranged=True)


def _gaussian(maps: Tensor, config: CFCAMConfig) -> Tensor:
    return _weighted_means(maps, config, ball=False, ranged=False)


def _weighted_means(maps: Tensor, config: CFCAMConfig, *, ball: bool, ranged: bool) -> Tensor:
    """The weighted mean of each cell's window, as `filtering` has it in two dimensions. Maps (M,d,h,w)."""
    d, h, w = maps.shape[1:]
    radius = config.radius(min(d, h), w)
    offsets = torch.arange(-radius, radius + 1, device=maps.device, dtype=maps.dtype).square_()
    squares = offsets[:, None, None] + offsets[:, None] + offsets
    exponents = squares * (-0.5 / config.sigma_space**2)
    if ball:
        exponents.masked_fill_(squares > radius**2, -torch.inf)
    padded = F.pad(maps[:, None], [radius] * 6, mode="reflect")[:, 0] if radius else maps
    size = 2 * radius + 1
    windows = padded.unfold(1, size, 1).unfold(2, size, 1).unfold(3, size, 1)
    difference = windows - maps[..., None, None, None]
    weights = exponents
    if ranged:
        weights = weights - (difference * (0.5**0.5 / config.sigma_range)).square_()
    weights = weights.exp().expand_as(difference)
    # Averaging the differences instead of the values keeps small variations of a large map.
    return maps + (weights * difference).sum((-3, -2, -1)) / weights.sum((-3, -2, -1))


#: Name in the configuration -> (maps (M,d,h,w), config) -> filtered maps; those that have a form in three dimensions.
VOLUME_FILTERS: dict[str, Callable[[Tensor, CFCAMConfig], Tensor]] = {
    "bilateral": _bilateral,
    "bilateral_relative": _bilateral_relative,
    "bilateral_square": _bilateral_square,
    "gaussian": _gaussian,
    "none": lambda maps, _config: maps,
}


def volume_heatmap(grid: Tensor, size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Heatmaps (…,D,H,W) float32 in [0,1] of grids (…,d,h,w), and the maxima (…) they were divided by.

    Upsampling to `size` (D,H,W) is trilinear (align_corners=False). A blank grid gives zeros and maximum 0.

    Example:
        >>> heatmap, peak = volume_heatmap(torch.tensor([[[[0.0, 4.0]]]]), (1, 1, 4))
        >>> heatmap, peak
        (tensor([[[[0.0000, 0.2500, 0.7500, 1.0000]]]]), tensor([4.]))
    """
    flat = grid.reshape(1, -1, *grid.shape[-3:])
    upsampled = F.interpolate(flat, size=size, mode="trilinear", align_corners=False)[0]
    peak = upsampled.amax((1, 2, 3))
    heatmap = upsampled / peak.masked_fill(peak <= 0, 1)[:, None, None, None]
    return heatmap.view(*grid.shape[:-3], *size), peak.view(grid.shape[:-3])
