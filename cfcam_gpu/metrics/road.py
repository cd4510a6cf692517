"""ROAD: the model's score after the most or the least important pixels are removed and filled from their neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

from cfcam_gpu.metrics.base import Case, Column
from cfcam_gpu.metrics.imputation import impute
from cfcam_gpu.metrics.masking import probability, ranks
from cfcam_gpu.metrics.noise import normal
from cfcam_gpu.metrics.options import MetricOptions

#: Standard deviation of the noise on filled pixels, for images in [0,1] (the authors' code).
NOISE = 0.01


def road(case: Case, options: MetricOptions) -> dict[str, Tensor]:
    """The target's probability after a share of the pixels is removed, in both orders.

    Returns:
        road_most_curve, road_least_curve: (B,P) float32 in [0,1], the probability without the most important and
            without the least important pixels, for each of the P shares `options.road_percentiles`.
        road_combined: (B,) float32 in [-0.5,0.5], (least - most) / 2, averaged over the shares. A higher value is
            better.

    Source: Rong et al. 2022, ROAD; `road_combined` as pytorch-grad-cam's `ROADCombined`. That thresholds the map where
    this function counts pixels.

    Example:
        >>> images, heatmaps = torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 8)
        >>> images[:, :, :4, :4], heatmaps[:, :4, :4] = 1, 1
        >>> def model(images):  # class 0 scores the bright square
        ...     square = 8 * images[:, :, :4, :4].mean((1, 2, 3))
        ...     return torch.stack([square, 4 - square], 1)
        >>> case = Case.of_heatmaps(model, images, torch.tensor([0]), heatmaps)
        >>> values = road(case, MetricOptions())
        >>> values["road_combined"] > 0.2
        tensor([True])
    """
    places, curves = ranks(case.heatmaps), []
    images_at_once = max(1, options.batch_size // (2 * len(options.road_percentiles)))
    for index in torch.arange(len(places), device=places.device).split(images_at_once):
        missing = removed(places[index], options.road_percentiles)
        curves.append(_probabilities(case, options, index, missing))
    most, least = torch.cat(curves).unbind(1)
    return {
        "road_most_curve": most,
        "road_least_curve": least,
        "road_combined": ((least - most) / 2).mean(1),
    }


def removed(places: Tensor, percentiles: tuple[float, ...]) -> Tensor:
    """Pixels to remove, (B,2,P,H,W) bool: the most important first, then the least important first.

    `places` (B,H,W) are the pixels' `ranks`, `percentiles` the P shares to remove.

    Example:
        >>> removed(torch.tensor([[[0, 1, 2, 3]]]), (25.0,)).int()[0, :, 0, 0]
        tensor([[1, 0, 0, 0],
                [0, 0, 0, 1]], dtype=torch.int32)
    """
    pixels = places[0].numel()
    counts = torch.tensor([round(pixels * share / 100) for share in percentiles], device=places.device)
    counts, places = counts[:, None, None], places[:, None]
    return torch.stack([places < counts, places >= pixels - counts], 1)


def _probabilities(case: Case, options: MetricOptions, index: Tensor, missing: Tensor) -> Tensor:
    """(n,2,P) for the images `index` (n,) with missing (n,2,P,H,W) pixels."""
    variants = missing[0, ..., 0, 0].numel()
    images = case.images[index].repeat_interleave(variants, 0)
    holes = missing.flatten(0, 2)
    shape = (variants, *case.images.shape[1:])
    noise = normal(case.seeds[index.cpu()], options.seed, 0, shape).flatten(0, 1).to(images.device)
    filled = impute(images, holes, case.check) + NOISE * noise * holes[:, None]
    return probability(case, filled, index.repeat_interleave(variants)).view(missing.shape[:3])


COLUMNS = (
    Column(
        "road_combined",
        "higher",
        "Half the probability without the least important pixels less that without the most important, "
        "averaged over the removed shares, -0.5 to 0.5.",
    ),
    Column(
        "road_most_curve",
        "lower",
        "Target's probability with the most important pixels removed and filled in.",
        curve=True,
    ),
    Column(
        "road_least_curve",
        "higher",
        "Target's probability with the least important pixels removed and filled in.",
        curve=True,
    ),
)
SOURCE = (
    "Rong et al., A Consistent and Efficient Evaluation Strategy for Attribution Methods (ROAD), ICML 2022, "
    "arXiv 2202.00449"
)
