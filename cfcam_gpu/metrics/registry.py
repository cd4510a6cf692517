"""The table of all metrics. A new metric is a file in this folder and its name here."""

from __future__ import annotations

from cfcam_gpu.metrics.base import Metric

#: From the name of a metric, as in `--metrics`, to the metric.
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("drop"),
        Metric("drop_published"),
        Metric("deletion"),
        Metric("insertion"),
        Metric("road"),
        Metric("adcc"),
        Metric("arcc"),
        Metric("gradient_noise"),
        Metric("input_noise"),
        Metric("class_sensitivity"),
        Metric("localisation", needs_masks=True),
        Metric("average_precision", needs_masks=True),
        Metric("randomisation"),
        Metric("edges"),
    )
}
