"""Similarity of pairs of heatmaps, batched: SSIM, mean squared error and correlation.

None of these normalises the maps. Two blank maps (all zeros) have SSIM 1, squared error 0 and no
correlation (NaN); each metric decides what a blank map means.
"""

from __future__ import annotations

import torch
from kornia.metrics import ssim as ssim_map
from torch import Tensor

#: Side of SSIM's Gaussian window, in pixels; its sigma is 1.5.
_WINDOW = 11
#: A map is constant when its values differ by no more than this times its largest magnitude: float32 rounding.
_CONSTANT = 1e-6


def ssim(maps: Tensor, others: Tensor) -> Tensor:
    """Mean structural similarity (N,) float32 in [-1,1] of two batches of maps (N,H,W) in [0,1].

    Gaussian window of 11 pixels and sigma 1.5, K1 0.01, K2 0.03, data range 1, population covariance, mean
    over the pixels whose window lies inside the map. NaN for maps smaller than the window.

    Source: Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity".

    Example:
        >>> maps = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> ssim(maps, maps)
        tensor([1., 1.])
    """
    if min(maps.shape[-2:]) < _WINDOW:
        return torch.full((len(maps),), torch.nan, device=maps.device)
    return ssim_map(maps[:, None], others[:, None], _WINDOW, 1.0, padding="valid").mean((1, 2, 3))


def squared_error(maps: Tensor, others: Tensor) -> Tensor:
    """Mean squared error (N,) over the pixels of two batches of maps (N,H,W).

    Example:
        >>> squared_error(torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[1.0, 1.0]]]))
        tensor([0.5000])
    """
    return (maps - others).square().mean((1, 2))


def correlation(maps: Tensor, others: Tensor) -> Tensor:
    """Pearson's correlation (N,) in [-1,1] over the pixels of two batches of maps (N,H,W).

    NaN where either map is constant: a blank map has no pattern to compare.

    Example:
        >>> maps = torch.tensor([[[0.0, 0.5, 1.0]]])
        >>> correlation(maps, 1 - maps), correlation(maps, 0 * maps)
        (tensor([-1.]), tensor([nan]))
    """
    a, b = (x.flatten(1) - x.mean((1, 2))[:, None] for x in (maps, others))
    cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    return cosine.clamp(-1, 1).masked_fill(is_constant(maps) | is_constant(others), torch.nan)


def is_constant(maps: Tensor) -> Tensor:
    """(N,) bool: whether the values of a map (N,H,W) are all the same up to rounding.

    Example:
        >>> is_constant(torch.tensor([[[0.3, 0.3]], [[0.3, 0.4]]]))
        tensor([ True, False])
    """
    low, high = torch.aminmax(maps.flatten(1), dim=1)
    return high - low <= _CONSTANT * torch.maximum(low.abs(), high.abs())
