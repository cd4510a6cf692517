"""All metrics by name."""

from __future__ import annotations

from cfcam_gpu.metrics import class_sensitivity, faithfulness, localisation, road, robustness, sanity
from cfcam_gpu.metrics.base import Metric

#: Name of a metric, as in `--metrics`, to the metric.
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        faithfulness.DROP,
        faithfulness.DROP_PUBLISHED,
        faithfulness.DELETION,
        faithfulness.INSERTION,
        road.ROAD,
        robustness.GRADIENT_NOISE,
        robustness.INPUT_NOISE,
        class_sensitivity.CLASS_SENSITIVITY,
        localisation.LOCALISATION,
        sanity.RANDOMISATION,
        sanity.EDGES,
    )
}
