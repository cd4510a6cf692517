"""Settings of the metrics that are out of range."""

from __future__ import annotations

import math
from typing import Any

import pytest

from cfcam_gpu.errors import ConfigError
from cfcam_gpu.metrics.options import MetricOptions


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 1}, "steps must be an integer of at least 2, got 1"),
        ({"steps": True}, "steps must be an integer of at least 2, got True"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
        (
            {"road_percentiles": (20.0, 100.0)},
            r"road_percentiles must be a tuple of increasing numbers above 0 and below 100, got \(20.0, 100.0\)",
        ),
        ({"noise_levels": ()}, r"noise_levels must be a tuple of increasing numbers above 0, got \(\)"),
        ({"noise_levels": (2.0, 1.0)}, "noise_levels must be a tuple of increasing numbers above 0"),
        ({"input_noise_levels": (math.nan,)}, "input_noise_levels must be a tuple of increasing numbers"),
        ({"iou_thresholds": "0.5"}, "iou_thresholds must be a tuple of increasing numbers"),
    ],
)
def test_options_out_of_range_are_refused(change: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        MetricOptions(**change)
