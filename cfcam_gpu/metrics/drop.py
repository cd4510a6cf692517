"""Average Drop and Increase in Confidence: the model's score when only what the heatmap marks is left."""

from __future__ import annotations

from torch import Tensor

from cfcam_gpu.metrics.base import Case, Column
from cfcam_gpu.metrics.masking import probability
from cfcam_gpu.metrics.options import MetricOptions


def drop(case: Case, options: MetricOptions) -> dict[str, Tensor]:
    """The change of the target's probability on the image times its heatmap, which is black where the map is 0.

    With Y the probability on the image and O that on the masked image. A blank map keeps nothing.

    Returns:
        average_drop: (B,) float32 in [0,1], max(0, Y - O) / Y; NaN where Y is 0.
        increase: (B,) float32, 1 where O > Y, else 0.

    Source: Chattopadhyay et al. 2018, Grad-CAM++, section 4.1, which reports both in percent.

    Example:
        >>> import torch
        >>> def model(images):  # two classes: class 0 scores the brightness
        ...     brightness = images.mean((1, 2, 3))
        ...     return torch.stack([brightness, 1 - brightness], 1)
        >>> case = Case.of_heatmaps(model, torch.ones(1, 3, 4, 4), torch.tensor([0]), torch.zeros(1, 4, 4))
        >>> drop(case, MetricOptions())
        {'average_drop': tensor([0.6321]), 'increase': tensor([0.])}
    """
    kept = probability(case, case.images * case.heatmaps[:, None])
    return {
        "average_drop": (case.clean - kept).relu() / case.clean,
        "increase": (kept > case.clean).float(),
    }


COLUMNS = (
    Column(
        "average_drop",
        "lower",
        "Share of the target's probability that is lost on the image times its map, 0 to 1.",
    ),
    Column("increase", "higher", "1 where the probability rises on the image times its map, else 0."),
)
SOURCE = "Chattopadhyay et al., Grad-CAM++, WACV 2018, arXiv 1710.11063, section 4.1"
