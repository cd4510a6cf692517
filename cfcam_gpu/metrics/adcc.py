"""ADCC: coherency, complexity and average drop of a heatmap in one figure."""

from __future__ import annotations

import torch
from torch import Tensor

from cfcam_gpu.metrics.base import Case, Column
from cfcam_gpu.metrics.drop import drop
from cfcam_gpu.metrics.options import MetricOptions
from cfcam_gpu.metrics.similarity import correlation


def adcc(case: Case, options: MetricOptions) -> dict[str, Tensor]:
    """The harmonic mean of coherency, 1 - complexity and 1 - average drop, and the first two.

    The average drop is that of the metric `drop`: the image in [0,1] is multiplied by the map, where the authors
    multiply the normalised image. A map that covers nothing or everything has an ADCC of 0.

    Returns:
        coherency: (B,) float32 in [0,1], see the function `coherency`.
        complexity: (B,) float32 in [0,1], see the function `complexity`.
        adcc: (B,) float32 in [0,1]; NaN where the probability on the image is 0.

    Raises:
        ConfigError: the case has no `maps`.

    Source: Poppi et al. 2021, equation 6, and the authors' code (repository aimagelab/ADCC).

    Example:
        >>> class Maps:  # of a method whose map is the image itself
        ...     def of_images(self, images, targets):
        ...         return images.mean(1)
        >>> def model(images):  # two classes of any image alike: nothing drops
        ...     return images[:, :2, 0, 0] * 0
        >>> images = torch.tensor([0.0, 1.0, 1.0, 0.0]).expand(1, 3, 2, 4).clone()
        >>> case = Case.of_heatmaps(model, images, torch.tensor([0]), images.mean(1), maps=Maps())
        >>> adcc(case, MetricOptions())  # 3 / (1/1 + 1/0.5 + 1/1)
        {'coherency': tensor([1.]), 'complexity': tensor([0.5000]), 'adcc': tensor([0.7500])}
    """
    coherent, complex_ = coherency(case), complexity(case.heatmaps)
    kept = 1 - drop(case, options)["average_drop"]
    return {
        "coherency": coherent,
        "complexity": complex_,
        "adcc": harmonic_mean(coherent, 1 - complex_, kept),
    }


def coherency(case: Case) -> Tensor:
    """(B,) float32 in [0,1]: how alike a heatmap is to that of the image times the heatmap, for the same class.

    Pearson's correlation r of their pixels as (r + 1) / 2; 0 where one of the two maps is constant: there is nothing
    that the method marks again. Every method that marks what it marked before is coherent, right or wrong.

    Source: Poppi et al. 2021, equation 4.

    Raises:
        ConfigError: the case has no `maps`.
    """
    again = case.map_maker.of_images(case.images * case.heatmaps[:, None], case.targets)
    return ((correlation(case.heatmaps, again) + 1) / 2).nan_to_num(nan=0.0)


def complexity(heatmaps: Tensor) -> Tensor:
    """(B,) float32 in [0,1]: the mean of a heatmap (B,H,W), so that the smallest map is the simplest.

    Source: Poppi et al. 2021, equation 5.

    Example:
        >>> complexity(torch.tensor([[[0.0, 1.0], [0.5, 0.5]]]))
        tensor([0.5000])
    """
    return heatmaps.mean((1, 2))


def harmonic_mean(*parts: Tensor) -> Tensor:
    """The harmonic mean (B,) of parts (B,) in [0,1]; 0 where one of them is.

    Example:
        >>> harmonic_mean(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 1.0]))
        tensor([0.6667, 0.0000])
    """
    return len(parts) / torch.stack([1 / part for part in parts]).sum(0)


COLUMNS = (
    Column("adcc", "higher", "Harmonic mean of coherency, 1 - complexity and 1 - average drop, 0 to 1."),
    Column("coherency", "higher", "Likeness of the map to that of the image times the map, 0 to 1."),
    Column("complexity", "lower", "Mean of the map, 0 to 1."),
)
SOURCE = (
    "Poppi et al., Revisiting the Evaluation of Class Activation Mapping for Explainability, CVPR Workshops 2021, "
    "arXiv 2104.10252"
)
