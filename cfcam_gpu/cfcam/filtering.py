"""Filters of the clusters' mean gradient maps, batched: (M,h,w) in, (M,h,w) out.

`FILTERS` maps the name in `CFCAMConfig.filter` to the function. A window that reaches further than
reflection at the border allows is clamped, see `CFCAMConfig.radius`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from kornia.filters import bilateral_blur, gaussian_blur2d, get_gaussian_kernel2d
from torch import Tensor

from cfcam_gpu.config import CFCAMConfig

#: Windows of as many maps as fit are unfolded at once. In bytes.
CHUNK_BYTES = 128 * 2**20


def bilateral(maps: Tensor, config: CFCAMConfig) -> Tensor:
    """Bilateral filter with a circular window and reflect-101 borders, equal to `cv2.bilateralFilter`."""
    h, w = maps.shape[-2:]
    radius = config.radius(h, w)
    size = 2 * radius + 1
    space = get_gaussian_kernel2d(
        (size, size), (config.sigma_space, config.sigma_space), device=maps.device, dtype=maps.dtype
    )
    offsets = torch.arange(-radius, radius + 1, device=maps.device)
    circle = offsets[:, None] ** 2 + offsets[None, :] ** 2 <= radius**2
    space = torch.where(circle, space[0], 0).reshape(1, size * size, 1)
    padded = F.pad(maps[:, None], [radius] * 4, mode="reflect") if radius else maps[:, None]
    windows = F.unfold(padded, size)
    difference = windows - maps.reshape(len(maps), 1, h * w)
    weights = space * torch.exp(-0.5 * (difference / config.sigma_range) ** 2)
    # Averaging the differences instead of the values keeps small variations of a large map.
    change = (weights * difference).sum(1) / weights.sum(1)
    return maps + change.view_as(maps)


def bilateral_relative(maps: Tensor, config: CFCAMConfig) -> Tensor:
    """`bilateral` with sigma_range in standard deviations of each map: it does not depend on the gradients' scale."""
    spread = maps.flatten(1).std(1, correction=0)[:, None, None]
    scale = torch.where(spread > 0, spread, 1)
    return bilateral(maps / scale, config) * scale


def bilateral_square(maps: Tensor, config: CFCAMConfig) -> Tensor:
    """`kornia.filters.bilateral_blur`: the full square window, reflect borders."""
    size = 2 * config.radius(*maps.shape[-2:]) + 1
    sigma = (config.sigma_space, config.sigma_space)
    return bilateral_blur(maps[:, None], (size, size), config.sigma_range, sigma)[:, 0]


def gaussian(maps: Tensor, config: CFCAMConfig) -> Tensor:
    """Gaussian filter, reflect borders: the paper's wording (section 3.3)."""
    size = 2 * config.radius(*maps.shape[-2:]) + 1
    return gaussian_blur2d(maps[:, None], (size, size), (config.sigma_space, config.sigma_space))[:, 0]


def upstream(maps: Tensor, config: CFCAMConfig) -> Tensor:
    """The published code's filter: one kernel of the map's own size, applied with zero padding.

    The kernel's spatial term is centred on (h/2, w/2), half a cell off on odd sizes; its range term
    measures from the map's mean. Neither is what a bilateral filter computes; for the `upstream`
    preset only. In float64: with large gradients the range term takes small differences of them.
    """
    h, w = maps.shape[-2:]
    given, maps = maps, maps.double()
    rows = torch.arange(h, device=maps.device, dtype=maps.dtype) - h / 2
    columns = torch.arange(w, device=maps.device, dtype=maps.dtype) - w / 2
    distance = rows[:, None] ** 2 + columns[None, :] ** 2
    spread = maps - maps.mean((1, 2), keepdim=True)
    kernels = torch.exp(-distance / (2 * config.sigma_space**2) - spread**2 / (2 * config.sigma_range**2))
    kernels = kernels / (kernels.sum((1, 2), keepdim=True) + 1e-6)
    left, top = (w - 1) // 2, (h - 1) // 2
    padded = F.pad(maps[:, None], (left, w - 1 - left, top, h - 1 - top))
    # Unfolded, since a convolution may run in TF32.
    filtered = (F.unfold(padded, (h, w)) * kernels.view(-1, h * w, 1)).sum(1)
    return filtered.view_as(maps).to(given.dtype)


def unfiltered(maps: Tensor, config: CFCAMConfig) -> Tensor:
    """The maps as they are."""
    return maps


FILTERS: dict[str, Callable[[Tensor, CFCAMConfig], Tensor]] = {
    "bilateral": bilateral,
    "bilateral_relative": bilateral_relative,
    "bilateral_square": bilateral_square,
    "gaussian": gaussian,
    "upstream": upstream,
    "none": unfiltered,
}


def filter_maps(maps: Tensor, config: CFCAMConfig) -> Tensor:
    """Apply the configured filter to maps (M,h,w) float32, in chunks of bounded memory."""
    if maps.numel() == 0:
        return maps
    h, w = maps.shape[-2:]
    window = max((2 * config.radius(h, w) + 1) ** 2, h * w)
    step = max(1, CHUNK_BYTES // (maps.element_size() * h * w * window))
    return torch.cat([FILTERS[config.filter](part, config) for part in maps.split(step)])
