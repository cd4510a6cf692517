"""How well the heatmap ranks the object's pixels before all others, for images that have a mask of them."""

from __future__ import annotations

import torch
from torch import Tensor

from cfcam_gpu.metrics.base import Case, Column
from cfcam_gpu.metrics.options import MetricOptions


def average_precision(case: Case, options: MetricOptions) -> dict[str, Tensor]:
    """Average precision of the heatmap's values as scores of the object's pixels, whatever their scale.

    NaN for images without a mask. A blank map has the object's share of the image, as any map without information.

    Returns:
        average_precision: (B,) float32 in [0,1], the mean over the object's pixels of the object's share among all
            pixels with at least their value.

    Source: as scikit-learn's `average_precision_score`; Choe et al. 2020, "Evaluating weakly supervised object
    localization methods right", take the same over all images together (PxAP).

    Example:
        >>> heatmaps = torch.tensor([[[1.0, 0.5], [0.2, 0.0]]])
        >>> masks = torch.tensor([[[True, False], [True, False]]])
        >>> image = torch.ones(1, 3, 2, 2)
        >>> case = Case.of_heatmaps(lambda x: x[:, :2, 0, 0], image, torch.tensor([0]), heatmaps, masks=masks)
        >>> average_precision(case, MetricOptions())
        {'average_precision': tensor([0.8333])}
    """
    masks = torch.zeros_like(case.heatmaps, dtype=torch.bool) if case.masks is None else case.masks
    pairs = zip(case.heatmaps.flatten(1), masks.to(case.heatmaps.device).flatten(1), strict=True)
    return {"average_precision": torch.stack([_of_one(scores, mask) for scores, mask in pairs])}


def _of_one(scores: Tensor, mask: Tensor) -> Tensor:
    """Average precision, a number, of scores (N,) for the pixels in mask (N,) bool."""
    values, order = scores.sort(descending=True)
    hits = mask[order].double().cumsum(0)
    # Pixels of equal value count together: each has the precision behind the last of them.
    last = torch.searchsorted(-values, -values, right=True) - 1
    precision = hits[last] / (last + 1)
    return (precision * mask[order]).sum().div(mask.sum()).float()


COLUMNS = (
    Column(
        "average_precision",
        "higher",
        "Average precision (0 to 1) of the map's values as scores of the object's pixels.",
    ),
)
SOURCE = "Choe et al. 2020, arXiv 2001.07437, there over all images together"
