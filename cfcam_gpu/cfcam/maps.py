"""The maps that every engine and method returns, and the last step: from a saliency map to a heatmap."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from cfcam_gpu.cfcam.clustering import Clusters


@dataclass(frozen=True)
class Maps:
    """The maps of B images for K targets each, on one device.

    Attributes:
        grid: (B,K,h,w) float32, the saliency map at the layer's resolution, raw scale, not negative.
        heatmap: (B,K,H,W) float32 in [0,1]: the grid upsampled to the image's size and divided by its maximum.
        peak: (B,K) float32, that maximum; 0 where the map is blank.
        clusters: of the channels; None for methods that do not cluster.
    """

    grid: Tensor
    heatmap: Tensor
    peak: Tensor
    clusters: Clusters | None = None


def maps_of(grid: Tensor, size: tuple[int, int], clusters: Clusters | None = None) -> Maps:
    """The `Maps` of a grid (B,K,h,w) float32, not negative, with heatmaps of `size` (H,W).

    Example:
        >>> import torch
        >>> maps = maps_of(torch.tensor([[[[0.0, 2.0], [0.0, 8.0]]]]), (2, 2))
        >>> maps.heatmap
        tensor([[[[0.0000, 0.2500],
                  [0.0000, 1.0000]]]])
        >>> maps.peak
        tensor([[8.]])
    """
    return Maps(grid, *upsample_and_normalise(grid, size), clusters)


def upsample_and_normalise(grid: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Heatmaps (B,K,H,W) float32 in [0,1] of grids (B,K,h,w), and the maxima (B,K) they were divided by.

    Upsampling to `size` (H,W) is bilinear (align_corners=False). A blank grid gives zeros and maximum 0.

    Example:
        >>> import torch
        >>> heatmap, peak = upsample_and_normalise(torch.tensor([[[[0.0, 4.0]]]]), (1, 4))
        >>> heatmap, peak
        (tensor([[[[0.0000, 0.2500, 0.7500, 1.0000]]]]), tensor([[4.]]))
    """
    upsampled = F.interpolate(grid, size=size, mode="bilinear", align_corners=False)
    peak = upsampled.amax((2, 3), keepdim=True)
    return upsampled / peak.masked_fill(peak <= 0, 1), peak[:, :, 0, 0]


def over_maximum(maps: Tensor) -> Tensor:
    """Maps (B,K,h,w), not negative, divided by their maxima; blank ones stay zeros.

    Example:
        >>> import torch
        >>> over_maximum(torch.tensor([[[[1.0, 4.0]], [[0.0, 0.0]]]]))
        tensor([[[[0.2500, 1.0000]],
        <BLANKLINE>
                 [[0.0000, 0.0000]]]])
    """
    peak = maps.amax((2, 3), keepdim=True)
    return maps / peak.masked_fill(peak <= 0, 1)
