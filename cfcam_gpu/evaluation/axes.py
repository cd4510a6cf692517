"""What lies along the curves: the positions' values and their meaning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cfcam_gpu.metrics.registry import METRICS

Options = dict[str, Any]


@dataclass(frozen=True)
class Axis:
    """Label and, for the options and the number of positions, the positions' values."""

    label: str
    values: Callable[[Options, int], Sequence[float]]


def _percent(options: Options, count: int) -> Sequence[float]:
    return np.linspace(0, 100, count).tolist()


def _numbered(options: Options, count: int) -> Sequence[float]:
    return range(1, count + 1)


def _option(name: str) -> Callable[[Options, int], Sequence[float]]:
    return lambda options, count: options.get(name, ())


#: By the metric's name.
AXES = {
    "deletion": Axis("pixels removed (%)", _percent),
    "insertion": Axis("pixels shown (%)", _percent),
    "road": Axis("pixels removed (%)", _option("road_percentiles")),
    "gradient_noise": Axis("noise on the gradients (÷ their spread)", _option("noise_levels")),
    "input_noise": Axis("noise on the image (of its range)", _option("input_noise_levels")),
    "localisation": Axis("threshold (share of the map's maximum)", _option("iou_thresholds")),
    "randomisation": Axis("stages of weights randomised, from the head", _numbered),
}
POSITION = Axis("position", _numbered)


def metric_of(column: str) -> str | None:
    """The metric that a column belongs to; None for one that no metric of this version has."""
    return next(
        (name for name, metric in METRICS.items() if any(c.name == column for c in metric.columns)), None
    )


def axis(curve: str, options: Options, count: int) -> tuple[str, Sequence[float]]:
    """Label and `count` values of a curve's positions; numbers from 1 where these are not known."""
    known = AXES.get(metric_of(curve) or "", POSITION)
    values = known.values(options, count)
    if len(values) != count:
        known, values = POSITION, _numbered(options, count)
    return known.label, values
