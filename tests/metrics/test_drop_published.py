"""The published drop and increase, against the steps of the published code."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cfcam_gpu.metrics.drop_published import drop_published
from cfcam_gpu.metrics.options import MetricOptions
from tests.helpers.metric_cases import sensitive_case, target_probability
from tests.helpers.tolerances import PROBABILITY

OPTIONS = MetricOptions()


def test_published_drop_follows_the_published_steps():
    """Its masks in NumPy, its baseline through ImageNet's normalisation, as the code has them."""
    case = sensitive_case(n=3)
    mean, std = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], np.float32)
    values = drop_published(case, OPTIONS)
    for i in range(3):
        image, heatmap = case.images[i].permute(1, 2, 0).numpy(), case.heatmaps[i].numpy()[..., None]
        normalised = (image - mean) / std
        shown = (heatmap > 0.3).astype(np.float32)
        mixed = (mean * (1 - shown) + normalised * shown) * std + mean
        baseline = np.broadcast_to(mean * std + mean, image.shape)
        kept, inserted, nothing = (
            target_probability(case, i, torch.from_numpy(np.array(x, np.float32)).permute(2, 0, 1))
            for x in (image * (heatmap > 0.5), mixed, baseline)
        )
        clean = case.clean[i].item()
        assert values["drop_raw_pixels"][i] == pytest.approx((clean - kept) / clean, abs=PROBABILITY)
        assert values["increase_mean_colour"][i] == pytest.approx(inserted - nothing, abs=PROBABILITY)


def test_the_published_drop_of_nothing_is_not_a_number():
    case = replace(sensitive_case(n=2), clean=torch.tensor([0.0, 1.0]))
    assert drop_published(case, OPTIONS)["drop_raw_pixels"].isfinite().tolist() == [False, True]
