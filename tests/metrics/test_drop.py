"""Average Drop and Increase in Confidence, against plain loops."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cfcam_gpu.metrics.drop import drop
from cfcam_gpu.metrics.options import MetricOptions
from tests.helpers.metric_cases import region_case, sensitive_case, target_probability
from tests.helpers.tolerances import PROBABILITY

OPTIONS = MetricOptions()


def test_drop_is_the_loss_on_image_times_map():
    case = sensitive_case(n=4)
    values = drop(case, OPTIONS)
    for i in range(4):
        kept = target_probability(case, i, case.images[i] * case.heatmaps[i])
        clean = case.clean[i].item()
        assert values["average_drop"][i] == pytest.approx(max(0, clean - kept) / clean, abs=PROBABILITY)
        assert values["increase"][i] == float(kept > clean)


def test_the_drop_of_nothing_is_not_a_number():
    """A target of probability 0 cannot drop; whether it rose is still defined."""
    case = replace(sensitive_case(n=2), clean=torch.tensor([0.0, 1.0]))
    assert drop(case, OPTIONS)["average_drop"].isnan().tolist() == [True, False]
    assert drop(case, OPTIONS)["increase"].tolist() == [1, 0]


def test_confidence_increases_where_only_the_region_is_left():
    assert drop(region_case(lambda region: region), OPTIONS)["increase"].tolist() == [1, 1]
    assert drop(region_case(lambda region: 1 - region), OPTIONS)["increase"].tolist() == [0, 0]


def test_a_blank_map_keeps_nothing():
    case = sensitive_case(n=2, heatmaps=torch.zeros(2, 16, 16), blank=torch.ones(2, dtype=torch.bool))
    black = case.model(torch.zeros_like(case.images)).softmax(1).gather(1, case.targets[:, None])[:, 0]
    expected = (case.clean - black).relu() / case.clean
    torch.testing.assert_close(drop(case, OPTIONS)["average_drop"], expected)
