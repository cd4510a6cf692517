"""The x-axis of each curve: the values of its positions and their meaning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cfcam_gpu.metrics import METRICS

#: The options of the metrics as the summary stores them.
_Options = dict[str, Any]


@dataclass(frozen=True)
class _Axis:
    """The label, and a function from the options and the number of positions to the positions' values."""

    label: str
    values: Callable[[_Options, int], Sequence[float]]


def _percent(_options: _Options, count: int) -> Sequence[float]:
    return np.linspace(0, 100, count).tolist()


def _numbered(_options: _Options, count: int) -> Sequence[float]:
    return range(1, count + 1)


def _option(name: str) -> Callable[[_Options, int], Sequence[float]]:
    return lambda options, _count: options.get(name, ())


#: By the metric's name.
_AXES = {
    "deletion": _Axis("pixels removed (%)", _percent),
    "insertion": _Axis("pixels shown (%)", _percent),
    "road": _Axis("pixels removed (%)", _option("road_percentiles")),
    "gradient_noise": _Axis("noise on the gradients (÷ their spread)", _option("noise_levels")),
    "input_noise": _Axis("noise on the image (of its range)", _option("input_noise_levels")),
    "localisation": _Axis("threshold (share of the map's maximum)", _option("iou_thresholds")),
    "randomisation": _Axis("stages of weights randomised, from the head", _numbered),
}
_POSITION = _Axis("position", _numbered)


def metric_of(column: str) -> str | None:
    """The name of the metric that fills a column; None for a column that no metric of this version fills.

    Example:
        >>> metric_of("average_drop"), metric_of("blank")
        ('drop', None)
    """
    return next(
        (name for name, metric in METRICS.items() if any(c.name == column for c in metric.columns)), None
    )


def curve_axis(curve: str, options: dict[str, Any], count: int) -> tuple[str, Sequence[float]]:
    """The label and the `count` values of a curve's x-axis; numbers from 1 where the values are not known.

    Args:
        curve: name of the curve's column.
        options: of the metrics, as the summary stores them.

    Example:
        >>> curve_axis("deletion_black_curve", {}, 3)
        ('pixels removed (%)', [0.0, 50.0, 100.0])
        >>> curve_axis("from_a_later_version", {}, 2)
        ('position', range(1, 3))
    """
    axis = _AXES.get(metric_of(curve) or "", _POSITION)
    values = axis.values(options, count)
    if len(values) != count:
        axis, values = _POSITION, _numbered(options, count)
    return axis.label, values
