"""ARCC: coherency, complexity and ROAD of a heatmap in one figure."""

from __future__ import annotations

from torch import Tensor

from cfcam_gpu.metrics.adcc import coherency, complexity, harmonic_mean
from cfcam_gpu.metrics.base import Case, Column
from cfcam_gpu.metrics.options import MetricOptions
from cfcam_gpu.metrics.road import road


def arcc(case: Case, options: MetricOptions) -> dict[str, Tensor]:
    """The harmonic mean of coherency, 1 - complexity and ROAD: ADCC with ROAD in place of the average drop.

    Coherency and complexity are those of the metric `adcc`; ROAD is `road_combined` times 2, negative values as 0.

    Returns:
        arcc: (B,) float32 in [0,1].

    Raises:
        ConfigError: the case has no `maps`.

    Source: Domeniconi et al. 2026, as the authors put it into pytorch-grad-cam (`pytorch_grad_cam.metrics.arcc`).

    Example:
        >>> import torch
        >>> class Maps:  # of a method that marks the same square in every image
        ...     def of_images(self, images, targets):
        ...         return heatmaps
        >>> images, heatmaps = torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 8)
        >>> images[:, :, :4, :4], heatmaps[:, :4, :4] = 1, 1
        >>> def model(images):  # class 0 scores the bright square
        ...     square = 8 * images[:, :, :4, :4].mean((1, 2, 3))
        ...     return torch.stack([square, 4 - square], 1)
        >>> case = Case.of_heatmaps(model, images, torch.tensor([0]), heatmaps, maps=Maps())
        >>> arcc(case, MetricOptions())["arcc"] > 0.7
        tensor([True])
    """
    combined = road(case, options)["road_combined"]
    return {"arcc": arcc_of(coherency(case), complexity(case.heatmaps), combined)}


def arcc_of(coherent: Tensor, complex_: Tensor, combined: Tensor) -> Tensor:
    """ARCC (B,) of coherency, complexity and `road_combined` (B,), for those who have them.

    Example:
        >>> import torch
        >>> arcc_of(torch.tensor([1.0, 1.0]), torch.tensor([0.5, 0.5]), torch.tensor([0.5, -0.1]))
        tensor([0.7500, 0.0000])
    """
    return harmonic_mean(coherent, 1 - complex_, (2 * combined).clamp(0, 1))


COLUMNS = (
    Column("arcc", "higher", "Harmonic mean of coherency, 1 - complexity and twice road_combined, 0 to 1."),
)
SOURCE = "Domeniconi et al., How to Evaluate and Refine your CAM, 2026, arXiv 2605.14641"
