"""The settings of the metrics, checked before anything is measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from cfcam_gpu._utils.option import METHOD, numbers, option
from cfcam_gpu.errors import ConfigError


@dataclass(frozen=True)
class MetricOptions:
    """Settings of the metrics; each metric reads those that it needs.

    Attributes:
        steps: points of a deletion or insertion curve, from 0 % to 100 % of the pixels (101 in RISE).
        noise_levels: standard deviations of the noise on the gradients, in units of the standard deviation of the
            image's own gradients; increasing.
        input_noise_levels: standard deviations of the noise on the image, whose values are in [0,1]; increasing.
        noise_draws: maps averaged at each noise level.
        road_percentiles: shares of the pixels that ROAD removes, in percent; increasing.
        iou_thresholds: shares of a map's maximum from which a pixel counts as marked; increasing.
        stages: stages of the cascading randomisation, from the head to the input.
        seed: seed of all random draws, together with each image's own seed.
        batch_size: number of perturbed images in memory at once. ROAD makes at least all those of one image.

    Raises:
        ConfigError: a value out of range.

    Example:
        >>> MetricOptions(steps=11).noise_levels
        (1.0, 2.0, 4.0, 8.0, 16.0)
        >>> MetricOptions(steps=1)
        Traceback (most recent call last):
        cfcam_gpu.errors.ConfigError: steps must be an integer of at least 2, got 1
    """

    steps: int = field(default=101, metadata=option("Points of deletion and insertion curves.", METHOD, "N"))
    noise_levels: tuple[float, ...] = field(
        default=(1.0, 2.0, 4.0, 8.0, 16.0),
        metadata=option(
            "Noise on the gradients, in units of their spread.",
            METHOD,
            "X,X",
            text="1,2,4,8,16",
            parse=numbers,
        ),
    )
    input_noise_levels: tuple[float, ...] = field(
        default=(0.02, 0.05, 0.1, 0.2),
        metadata=option(
            "Noise on the image, in units of its range.",
            METHOD,
            "X,X",
            text="0.02,0.05,0.1,0.2",
            parse=numbers,
        ),
    )
    noise_draws: int = field(default=3, metadata=option("Maps averaged at each level of noise.", METHOD, "N"))
    road_percentiles: tuple[float, ...] = (20.0, 40.0, 60.0, 80.0)
    iou_thresholds: tuple[float, ...] = (0.15, 0.25, 0.5)
    stages: int = 5
    seed: int = field(default=0, metadata=option("Seed of all random draws.", METHOD, "N"))
    batch_size: int = 64

    def __post_init__(self) -> None:
        for name, (is_valid, expected) in _RULES.items():
            value = getattr(self, name)
            if not is_valid(value):
                raise ConfigError(f"{name} must be {expected}, got {value!r}")


def _integer(low: int) -> tuple[Callable[[object], bool], str]:
    def is_valid(value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= low

    return is_valid, f"an integer of at least {low}"


def _levels(high: float) -> tuple[Callable[[object], bool], str]:
    """Increasing numbers above 0 and below `high`."""

    def is_valid(value: object) -> bool:
        if not (isinstance(value, tuple) and value):
            return False
        numbers = all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in value)
        return numbers and all(a < b for a, b in zip((0, *value), (*value, high), strict=True))

    below = "" if math.isinf(high) else f" and below {high:g}"
    return is_valid, f"a tuple of increasing numbers above 0{below}"


_RULES: dict[str, tuple[Callable[[object], bool], str]] = {
    "steps": _integer(2),
    "noise_levels": _levels(math.inf),
    "input_noise_levels": _levels(math.inf),
    "noise_draws": _integer(1),
    "road_percentiles": _levels(100),
    "iou_thresholds": _levels(1),
    "stages": _integer(1),
    "seed": _integer(0),
    "batch_size": _integer(1),
}
