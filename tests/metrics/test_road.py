"""ROAD: which pixels are removed, the noise, and the order of the curves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cfcam_gpu.metrics.masking import ranks
from cfcam_gpu.metrics.options import MetricOptions
from cfcam_gpu.metrics.road import removed, road
from tests.helpers.metric_cases import pictures, region_case, sensitive_case
from tests.helpers.tolerances import PROBABILITY

OPTIONS = MetricOptions()


def test_road_curves_keep_the_target_where_the_region_is_spared():
    values = road(region_case(lambda region: region), OPTIONS)
    assert (values["road_least_curve"] > values["road_most_curve"]).all()


def test_roads_noise_comes_from_the_seeds():
    case = sensitive_case(n=2)
    curve = road(case, OPTIONS)["road_most_curve"]
    one_by_one = road(case, replace(OPTIONS, batch_size=1))["road_most_curve"]
    torch.testing.assert_close(curve, one_by_one, atol=PROBABILITY, rtol=0)
    for other in (
        road(case, replace(OPTIONS, seed=1)),
        road(replace(case, seeds=case.seeds + 1), OPTIONS),
    ):
        assert not torch.equal(curve, other["road_most_curve"])
        torch.testing.assert_close(curve, other["road_most_curve"], atol=0.05, rtol=0)


@pytest.mark.parametrize("share", [20.0, 33.3, 80.0])
def test_road_removes_the_share_at_both_ends(share: float):
    places = ranks(pictures(2)[:, 0])
    most, least = removed(places, (share,))[:, :, 0].unbind(1)
    count = round(256 * share / 100)
    assert (most.sum((1, 2)) == count).all()
    assert (least.sum((1, 2)) == count).all()
    assert (places[0][most[0]] < count).all()
    assert (places[0][least[0]] >= 256 - count).all()


def test_filling_can_be_ended_in_the_middle():
    """Filling is the slow step of ROAD, so each of its iterations calls the case's `check`."""
    iterations = 0

    def check() -> None:
        nonlocal iterations
        iterations += 1
        if iterations == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        road(sensitive_case(n=2, check=check), OPTIONS)
    assert iterations == 3
