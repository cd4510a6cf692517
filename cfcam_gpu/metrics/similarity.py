"""How alike two heatmaps are: SSIM, mean squared error and correlation, one number for each pair. Batched.

None of these normalises its maps. Two blank maps (all zeros) have SSIM 1 and squared error 0 and no
correlation; what a blank map means is for the metric to say that compares.
"""

from __future__ import annotations

import torch
from kornia.metrics import ssim as ssim_map
from torch import Tensor

#: Side of SSIM's Gaussian window, in pixels; its sigma is 1.5.
WINDOW = 11
#: A map whose values differ by less, relative to its largest magnitude, is constant: float32 rounding.
CONSTANT = 1e-6


def ssim(maps: Tensor, others: Tensor) -> Tensor:
    """Mean structural similarity (N,) float32 in [-1,1] of two batches of maps (N,H,W) in [0,1].

    Gaussian window of 11 pixels and sigma 1.5, K1 0.01, K2 0.03, data range 1, population covariance, mean
    over the pixels whose window lies inside the map. NaN for maps smaller than the window.

    Source: Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity".
    """
    if min(maps.shape[-2:]) < WINDOW:
        return torch.full((len(maps),), torch.nan, device=maps.device)
    return ssim_map(maps[:, None], others[:, None], WINDOW, 1.0, padding="valid").mean((1, 2, 3))


def squared_error(maps: Tensor, others: Tensor) -> Tensor:
    """Mean squared error (N,) over the pixels of two batches of maps (N,H,W)."""
    return (maps - others).square().mean((1, 2))


def correlation(maps: Tensor, others: Tensor) -> Tensor:
    """Pearson's correlation (N,) in [-1,1] over the pixels of two batches of maps (N,H,W).

    NaN where either map is constant: a blank map has no pattern to compare.
    """
    a, b = (x.flatten(1) - x.mean((1, 2))[:, None] for x in (maps, others))
    cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    return cosine.clamp(-1, 1).masked_fill(is_constant(maps) | is_constant(others), torch.nan)


def is_constant(maps: Tensor) -> Tensor:
    """(N,) bool: maps (N,H,W) whose values are all the same, but for rounding."""
    low, high = torch.aminmax(maps.flatten(1), dim=1)
    return high - low <= CONSTANT * torch.maximum(low.abs(), high.abs())
