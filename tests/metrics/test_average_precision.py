"""Average precision of pixels, beside scikit-learn's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from sklearn.metrics import average_precision_score

from cfcam_gpu.metrics.average_precision import average_precision
from cfcam_gpu.metrics.options import MetricOptions
from tests.helpers.metric_cases import region_case


def measured(heatmaps: torch.Tensor, masks: torch.Tensor | None) -> torch.Tensor:
    case = replace(region_case(lambda region: region, n=len(heatmaps)), heatmaps=heatmaps, masks=masks)
    return average_precision(case, MetricOptions())["average_precision"]


@pytest.mark.parametrize("levels", [2, 7, 10_000])
def test_equals_scikit_learns_with_ties_and_without(levels):
    generator = torch.Generator().manual_seed(levels)
    heatmaps = torch.randint(levels, (3, 9, 7), generator=generator).float() / levels
    masks = torch.rand(3, 9, 7, generator=generator) < 0.3
    expected = [
        average_precision_score(mask.flatten(), heatmap.flatten())
        for mask, heatmap in zip(masks, heatmaps, strict=True)
    ]
    assert measured(heatmaps, masks).tolist() == pytest.approx(expected, abs=1e-6)


def test_right_wrong_and_blank_maps_and_no_mask():
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[0] = True
    heatmaps = torch.stack([mask.float(), 1 - mask.float(), torch.zeros(4, 4)])
    values = measured(heatmaps, mask.expand(3, 4, 4))
    assert values.tolist() == pytest.approx([1.0, 0.25, 0.25])
    assert measured(heatmaps, None).isnan().all()
