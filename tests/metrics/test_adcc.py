"""ADCC and ARCC against their formulas, computed for one image at a time with SciPy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr

from cfcam_gpu.metrics.adcc import adcc
from cfcam_gpu.metrics.arcc import arcc
from cfcam_gpu.metrics.options import MetricOptions
from cfcam_gpu.metrics.road import road
from tests.helpers.metric_cases import brightness_case, sensitive_case, target_probability
from tests.helpers.tolerances import PROBABILITY

OPTIONS = MetricOptions()


def test_the_figures_are_those_of_the_formulas():
    case, _ = brightness_case(n=5, size=16)
    values = adcc(case, OPTIONS) | arcc(case, OPTIONS)
    combined = road(case, OPTIONS)["road_combined"]
    assert (combined > 0.1).all()
    for i, heatmap in enumerate(case.heatmaps):
        masked = case.images[i] * heatmap
        again = masked.mean(0)
        coherency = (pearsonr(heatmap.numpy().ravel(), again.numpy().ravel())[0] + 1) / 2
        clean = float(case.clean[i])
        drop = max(0.0, clean - target_probability(case, i, masked)) / clean
        complexity = float(np.abs(heatmap.numpy()).sum() / heatmap.numel())
        assert values["coherency"][i] == pytest.approx(coherency, abs=1e-5)
        assert values["complexity"][i] == pytest.approx(complexity, abs=1e-6)
        expected = 3 / (1 / coherency + 1 / (1 - complexity) + 1 / (1 - drop))
        assert values["adcc"][i] == pytest.approx(expected, abs=PROBABILITY)
        expected = 3 / (1 / coherency + 1 / (1 - complexity) + 1 / (2 * float(combined[i])))
        assert values["arcc"][i] == pytest.approx(expected, abs=PROBABILITY)


@pytest.mark.parametrize(("value", "complexity"), [(0.0, 0), (1.0, 1)])
def test_a_map_of_nothing_or_of_everything_is_worth_nothing(value: float, complexity: int):
    case = sensitive_case(n=2, heatmaps=torch.full((2, 16, 16), value), blank=torch.tensor([value == 0] * 2))
    values = adcc(case, OPTIONS) | arcc(case, OPTIONS)
    assert values["complexity"].tolist() == [complexity] * 2
    for name in ("coherency", "adcc", "arcc"):
        assert values[name].tolist() == [0, 0]


def test_the_drop_of_nothing_is_not_a_number():
    case = replace(sensitive_case(n=2), clean=torch.tensor([0.0, 1.0]))
    assert adcc(case, OPTIONS)["adcc"].isnan().tolist() == [True, False]


def test_pixels_without_use_count_as_none():
    """A map of the least useful pixels has a negative ROAD, and an ARCC of 0 whatever else it is."""
    case, _ = brightness_case(n=4, size=16)
    inverse = replace(case, heatmaps=1 - case.heatmaps)
    assert (road(inverse, OPTIONS)["road_combined"] < 0).all()
    assert not arcc(inverse, OPTIONS)["arcc"].any()
    assert (adcc(inverse, OPTIONS)["complexity"] < 1).all()
