"""Average Drop and Average Increase as the published code of CF-CAM computes them."""

from __future__ import annotations

import torch
from torch import Tensor

from cfcam_gpu.metrics.base import Case, Column
from cfcam_gpu.metrics.masking import probability
from cfcam_gpu.metrics.options import MetricOptions

#: Heatmap values above which the published `ad.py` keeps a pixel for the drop.
_DROP_THRESHOLD = 0.5
#: Heatmap values above which the published `ai.py` keeps a pixel for the increase.
_INCREASE_THRESHOLD = 0.3

#: Colour, in [0,1], of the pixels that the published `ai.py` does not keep. The code writes ImageNet's mean m
#: where normalised values belong, which is the colour m + m·std.
_COLOUR = (0.485 * 1.229, 0.456 * 1.224, 0.406 * 1.225)


def drop_published(case: Case, options: MetricOptions) -> dict[str, Tensor]:
    """The two figures of the published CF-CAM code. They are not those of the metric `drop`.

    With Y the target's probability on the image.

    Returns:
        drop_raw_pixels: (B,) float32, at most 1: (Y - O) / Y, where O is the probability with the pixels of heatmap
            values up to 0.5 made black. Negative where the probability rises, NaN where Y is 0.
        increase_mean_colour: (B,) float32 in [-1,1], the probability with the pixels of heatmap values up to 0.3 in
            one colour, less the probability of an image that has this colour everywhere. Y plays no part.

    Source: the published code of arXiv 2504.00060, metrics/ad.py and metrics/ai.py. For the drop, that code masks
    the image before it is resized to the model's input; here the model's input is masked.

    Example:
        >>> def model(images):  # two classes: class 0 scores the brightness
        ...     brightness = images.mean((1, 2, 3))
        ...     return torch.stack([brightness, 1 - brightness], 1)
        >>> case = Case.of_heatmaps(model, torch.ones(1, 3, 4, 4), torch.tensor([0]), torch.zeros(1, 4, 4))
        >>> drop_published(case, MetricOptions())
        {'drop_raw_pixels': tensor([0.6321]), 'increase_mean_colour': tensor([0.])}
    """
    kept = probability(case, case.images * (case.heatmaps[:, None] > _DROP_THRESHOLD))
    colour = torch.tensor(_COLOUR, device=case.images.device)[:, None, None].expand_as(case.images)
    shown = case.heatmaps[:, None] > _INCREASE_THRESHOLD
    inserted = probability(case, torch.where(shown, case.images, colour))
    return {
        "drop_raw_pixels": (case.clean - kept) / case.clean,
        "increase_mean_colour": inserted - probability(case, colour),
    }


COLUMNS = (
    Column(
        "drop_raw_pixels",
        "lower",
        "Share of the probability that is lost with pixels at most 0.5 black, at most 1, negative for a rise.",
    ),
    Column(
        "increase_mean_colour",
        "higher",
        "Probability with pixels at most 0.3 in one colour, less that of the colour alone, -1 to 1.",
    ),
)
SOURCE = "CF-CAM's published code (arXiv 2504.00060), metrics/ad.py and metrics/ai.py"
