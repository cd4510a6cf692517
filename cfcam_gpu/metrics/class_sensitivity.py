"""Whether the heatmap depends on the explained class."""

from __future__ import annotations

from torch import Tensor

from cfcam_gpu.errors import ConfigError
from cfcam_gpu.metrics.base import Case, Column
from cfcam_gpu.metrics.options import MetricOptions
from cfcam_gpu.metrics.similarity import correlation


def class_sensitivity(case: Case, options: MetricOptions) -> dict[str, Tensor]:
    """Pearson's correlation of the heatmap of the likeliest class with those of the second and the least likely.

    A value near 1 means that the method shows the same map whichever class is explained. The classes are the
    model's own ranking for each image (equal logits: the lower index first), not `case.targets`. With two classes the
    second is also the least likely.

    Returns:
        similarity_second, similarity_least: (B,) float32 in [-1,1]. NaN where one of the two maps is blank or
            constant.

    Raises:
        ConfigError: the case has no `maps`, or the model one class.

    Source: after the class-discrimination test of Selvaraju et al. 2017, Grad-CAM.

    Example:
        >>> import torch
        >>> class Maps:  # of a method that shows the same map for every class
        ...     def of_images(self, images, targets):
        ...         return images.mean(1)[:, None].expand(-1, targets.shape[1], -1, -1)
        >>> images = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        >>> def model(images):
        ...     return images[:, :, 0, 0]
        >>> case = Case.of_heatmaps(model, images, torch.tensor([0]), images.mean(1), maps=Maps())
        >>> class_sensitivity(case, MetricOptions())["similarity_least"].round(decimals=3)
        tensor([1.])
    """
    ranking = case.model(case.images).argsort(dim=1, descending=True, stable=True)
    if ranking.shape[1] < 2:
        raise ConfigError(
            "metric 'class_sensitivity' compares the maps of two classes and the model has one; leave it out"
        )
    top, second, least = case.map_maker.of_images(case.images, ranking[:, [0, 1, -1]]).unbind(1)
    return {"similarity_second": correlation(top, second), "similarity_least": correlation(top, least)}


_ABOUT = "Correlation (-1 to 1) of the maps of the likeliest and the {} class; 1: the map ignores the class."
COLUMNS = (
    Column("similarity_second", "lower", _ABOUT.format("second likeliest")),
    Column("similarity_least", "lower", _ABOUT.format("least likely")),
)
SOURCE = "after the class-discrimination test of Selvaraju et al. 2017, arXiv 1610.02391"
