"""Whether the heatmap is only an edge detector: it is compared with the edges of the image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from kornia.color import rgb_to_grayscale
from kornia.filters import spatial_gradient
from torch import Tensor

from cfcam_gpu.metrics.base import Case, Column
from cfcam_gpu.metrics.options import MetricOptions
from cfcam_gpu.metrics.similarity import correlation, is_constant, ssim

#: The edge map is compared at 1/1, 1/2, … 1/32 of the image's resolution.
_SCALES = (1, 2, 4, 8, 16, 32)
#: Fewest cells along a side of the edge map at such a scale.
_FEWEST_CELLS = 4
#: Gradient magnitude, in grey values of [0,1] per pixel, below which there is no edge: half of what the smallest step
#: of an 8-bit image makes.
_NO_EDGE = 0.25 / 255


def edges(case: Case, options: MetricOptions) -> dict[str, Tensor]:
    """Similarity of the heatmap to the edges of the image, which need no model: look twice at high values.

    The edge map is the magnitude of the grey image's Sobel gradient. A heatmap comes from a coarser layer, so
    the edges are also averaged over 2×2, 4×4, … 32×32 pixels, upsampled to the image's size bilinearly and
    divided by their maximum. The scale that resembles the heatmap most counts, whatever the layer is: compare
    with the value of the method `random`.

    Returns:
        edges_ssim, edges_correlation: (B,) float32 in [-1,1]. NaN for blank or constant maps and for images without
            edges.

    Source: edge detectors as a baseline, Adebayo et al. 2018, "Sanity checks for saliency maps".

    Example:
        >>> images = torch.zeros(1, 3, 16, 16)
        >>> images[..., 8:] = 1
        >>> heatmaps = sobel(images) / sobel(images).amax()
        >>> case = Case.of_heatmaps(lambda x: x[:, :2, 0, 0], images, torch.tensor([0]), heatmaps)
        >>> edges(case, MetricOptions())
        {'edges_ssim': tensor([1.]), 'edges_correlation': tensor([1.])}
    """
    edge_map = sobel(case.images)
    side = min(case.images.shape[2:])
    similarities, correlations = [], []
    for scale in (scale for scale in _SCALES if scale == 1 or side // scale >= _FEWEST_CELLS):
        case.check()
        maps = at_scale(edge_map, scale)
        similarities.append(ssim(case.heatmaps, maps))
        # An edge map that is even at one scale resembles nothing there; another scale may count.
        correlations.append(correlation(case.heatmaps, maps).nan_to_num(0))
    undefined = case.blank | is_constant(case.heatmaps) | (edge_map.amax((1, 2)) < _NO_EDGE)
    return {
        "edges_ssim": torch.stack(similarities).amax(0).masked_fill(undefined, torch.nan),
        "edges_correlation": torch.stack(correlations).amax(0).masked_fill(undefined, torch.nan),
    }


def sobel(images: Tensor) -> Tensor:
    """Gradient magnitude (B,H,W), in grey values of [0,1] per pixel, of images (B,3,H,W) in [0,1].

    Example:
        >>> images = torch.zeros(1, 3, 1, 4)
        >>> images[..., 2:] = 1
        >>> sobel(images).round(decimals=2)
        tensor([[[0.0000, 0.5000, 0.5000, 0.0000]]])
    """
    return spatial_gradient(rgb_to_grayscale(images), mode="sobel")[:, 0].norm(dim=1)


def at_scale(maps: Tensor, scale: int) -> Tensor:
    """Maps (B,H,W) averaged over scale × scale pixels, at their own size again, divided by their maximum.

    Example:
        >>> at_scale(torch.tensor([[[1.0, 3.0, 0.0, 0.0]]]).expand(1, 2, 4), 2)
        tensor([[[1.0000, 0.7500, 0.2500, 0.0000],
                 [1.0000, 0.7500, 0.2500, 0.0000]]])
    """
    h, w = maps.shape[1:]
    coarse = F.adaptive_avg_pool2d(maps[:, None], (max(1, h // scale), max(1, w // scale)))
    fine = F.interpolate(coarse, (h, w), mode="bilinear", align_corners=False)[:, 0]
    return fine / fine.amax((1, 2), keepdim=True).clamp_min(torch.finfo(fine.dtype).tiny)


COLUMNS = (
    Column("edges_ssim", "", "SSIM (-1 to 1) of the map with the image's edges; high: it may be only edges."),
    Column("edges_correlation", "", "Correlation (-1 to 1) of the map with the image's edges, likewise."),
)
SOURCE = "edge detectors as in Adebayo et al. 2018, arXiv 1810.03292"
