"""Insertion: the model's score while the pixels that the heatmap marks come back into a baseline."""

from __future__ import annotations

import torch
from torch import Tensor

from cfcam_gpu.metrics.base import Case
from cfcam_gpu.metrics.masking import masked_probabilities, ranks
from cfcam_gpu.metrics.options import MetricOptions
from cfcam_gpu.metrics.pixel_curves import BASELINES, RISE, curve_columns, pixel_counts, with_areas


def insertion(case: Case, options: MetricOptions) -> dict[str, Tensor]:
    """The target's probability while the image's pixels replace a baseline, the most important first.

    Equal heatmap values follow the reading order, so a blank map inserts from the top left.

    Returns:
        insertion_black_auc, insertion_blur_auc: (B,) float32 in [0,1], area under the curve.
        insertion_black_curve, insertion_blur_curve: (B,S) float32 with S `options.steps`, from the baseline alone
            to the clean image.

    Source: Petsiuk et al. 2018, RISE, section 3.3, there with the blurred baseline.

    Example:
        >>> def model(images):  # two classes: class 0 scores the brightness
        ...     brightness = 4 * images.mean((1, 2, 3))
        ...     return torch.stack([brightness, 2 - brightness], 1)
        >>> case = Case.of_heatmaps(model, torch.ones(1, 3, 4, 4), torch.tensor([0]), torch.zeros(1, 4, 4))
        >>> insertion(case, MetricOptions(steps=3))["insertion_black_curve"]
        tensor([[0.1192, 0.8808, 0.9975]])
    """
    places, counts, curves = ranks(case.heatmaps), pixel_counts(case, options.steps), {}
    for name, baseline in BASELINES.items():
        inserted = masked_probabilities(
            case, places, counts[:-1], case.images, baseline(case.images), options.batch_size
        )
        curves[name] = torch.cat([inserted, case.clean[:, None]], 1)
    return with_areas("insertion", curves, counts)


COLUMNS = curve_columns(
    "insertion", "higher", "Target's probability while the most important pixels come back into {baseline}."
)
SOURCE = RISE
