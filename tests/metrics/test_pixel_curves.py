"""Deletion and insertion, against a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cfcam_gpu.metrics.deletion import deletion
from cfcam_gpu.metrics.insertion import insertion
from cfcam_gpu.metrics.options import MetricOptions
from cfcam_gpu.metrics.pixel_curves import BASELINES
from tests.helpers.metric_cases import sensitive_case, target_probability
from tests.helpers.tolerances import PROBABILITY


@pytest.mark.parametrize("steps", [2, 5, 11])
@pytest.mark.parametrize("baseline", ["black", "blur"])
def test_deletion_and_insertion_equal_a_plain_loop(steps: int, baseline: str):
    case = sensitive_case(n=3, size=14)
    base = BASELINES[baseline](case.images)
    options = MetricOptions(steps=steps, batch_size=4)
    values = deletion(case, options) | insertion(case, options)
    for i in range(3):
        order = np.argsort(-case.heatmaps[i].flatten().numpy(), kind="stable")
        removed, inserted, shares = [], [], []
        for step in range(steps):
            first = torch.zeros(14 * 14, dtype=torch.bool)
            first[order[: step * 14 * 14 // (steps - 1)]] = True
            first = first.view(1, 14, 14)
            removed.append(target_probability(case, i, torch.where(first, base[i], case.images[i])))
            inserted.append(target_probability(case, i, torch.where(first, case.images[i], base[i])))
            shares.append(first.float().mean().item())
        for metric, curve in (("deletion", removed), ("insertion", inserted)):
            expected = values[f"{metric}_{baseline}_curve"][i].numpy()
            np.testing.assert_allclose(expected, curve, atol=PROBABILITY)
            auc = values[f"{metric}_{baseline}_auc"][i].item()
            assert auc == pytest.approx(np.trapezoid(curve, shares), abs=PROBABILITY)
