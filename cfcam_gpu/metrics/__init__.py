"""Metrics of heatmaps: `METRICS` lists them by name, and each is called with a `Case` and `MetricOptions`.

One file a metric, named as the metric is in `cfcam evaluate --metrics`. Importing this package does not import
PyTorch; a metric's file is imported when the metric is first used.
"""

from __future__ import annotations

from cfcam_gpu.metrics.base import Case, Column, MapMaker, Metric
from cfcam_gpu.metrics.options import MetricOptions
from cfcam_gpu.metrics.registry import METRICS

__all__ = ["METRICS", "Case", "Column", "MapMaker", "Metric", "MetricOptions"]
