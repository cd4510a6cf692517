"""The parameters of CF-CAM and its presets."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from cfcam_gpu.errors import ConfigError

FILTERS = ("bilateral", "bilateral_relative", "bilateral_square", "gaussian", "upstream", "none")
WEIGHTINGS = ("mean", "softmax", "spatial")

#: Smallest radius of DBSCAN, in units of the activations (published code).
EPS_FLOOR = 1e-5

#: Two channels are neighbours when their distance is at most eps * (1 + EPS_SLACK). Half of the
#: time eps *is* the distance of one pair; without the slack, rounding would decide whether that
#: pair counts. The same holds for the norm that is the dominance threshold.
EPS_SLACK = 1e-6

#: Labels of channels outside any cluster.
NOISE = -1
DOMINANT = -2


@dataclass(frozen=True)
class CFCAMConfig:
    """Parameters of CF-CAM (arXiv 2504.00060). Immutable; `dataclasses.replace` makes variants.

    Attributes:
        dominant_percentile: channels whose L2 norm reaches this percentile (0 to 100) of the
            image's channel norms keep their own gradient and are not clustered. None: no channel
            is dominant.
        eps_percentile: percentile (0 to 100) of the pairwise distances that becomes DBSCAN's eps.
        min_samples_fraction: DBSCAN's min_samples as a fraction (0 to 1) of the clustered
            channels, rounded down, at least 2.
        filter: filter of each cluster's mean gradient map, one of `FILTERS`.
        sigma_space: spatial standard deviation of the filter, in cells of the layer's grid.
        sigma_range: range standard deviation of the bilateral filters, in units of the gradient;
            for `bilateral_relative` in standard deviations of the map that is filtered.
        diameter: window of the filter in cells (odd); None: OpenCV's rule,
            2 * round(1.5 * sigma_space) + 1. Clamped to what reflection at the map's border allows.
        weighting: `mean`: a channel's weight is its pooled gradient; `softmax`: those of all
            channels that are not noise pass through a softmax (published code); `spatial`: every
            location has its own weight, the positive part of the gradient map that would be pooled,
            filtered for dominant channels as well.
        fine_share: how much of the map the finer layer decides (0 to 1) in the method `cfcam-fine`;
            not used by others.
    """

    dominant_percentile: float | None = 75.0
    eps_percentile: float = 25.0
    min_samples_fraction: float = 0.05
    filter: str = "bilateral"
    sigma_space: float = 5.0
    sigma_range: float = 0.1
    diameter: int | None = None
    weighting: str = "mean"
    fine_share: float = 0.4

    def __post_init__(self) -> None:
        if self.dominant_percentile is not None:
            _check_range("dominant_percentile", self.dominant_percentile, 0, 100, " or None")
        _check_range("eps_percentile", self.eps_percentile, 0, 100)
        _check_range("min_samples_fraction", self.min_samples_fraction, 0, 1)
        _check_range("fine_share", self.fine_share, 0, 1)
        _check_choice("filter", self.filter, FILTERS)
        _check_choice("weighting", self.weighting, WEIGHTINGS)
        for name in ("sigma_space", "sigma_range"):
            value = getattr(self, name)
            if not (_is_number(value) and 0 < value < float("inf")):
                raise ConfigError(f"{name} must be a positive number, got {value!r}")
        d = self.diameter
        if d is not None and not (isinstance(d, int) and not isinstance(d, bool) and d > 0 and d % 2 == 1):
            raise ConfigError(f"diameter must be a positive odd number of cells or None, got {d!r}")

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> CFCAMConfig:
        """The configuration called `name` (a key of `PRESETS`), single parameters replaced.

        Raises:
            ConfigError: unknown preset or parameter, or a value out of range.
        """
        _check_choice("preset", name, tuple(PRESETS))
        known = {field.name for field in dataclasses.fields(cls)}
        for key in overrides:
            _check_choice("parameter", key, tuple(sorted(known)))
        return cls(**{**PRESETS[name], **overrides})

    def radius(self, h: int, w: int) -> int:
        """Radius of the filter's window on an h×w map: reflection reaches at most min(h, w) - 1."""
        diameter = self.diameter or 2 * round(1.5 * self.sigma_space) + 1
        return min(diameter // 2, min(h, w) - 1)

    def min_samples(self, n: int) -> int:
        """DBSCAN's min_samples for n clustered channels."""
        return max(2, int(self.min_samples_fraction * n))


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # The published code: softmax over the pooled weights and a global filter.
    "upstream": {"filter": "upstream", "weighting": "softmax"},
    # The published README's steps read literally: every channel is clustered.
    "workflow": {"dominant_percentile": None},
    # For layers before the last, whose gradients differ from place to place.
    "spatial": {
        "weighting": "spatial",
        "filter": "bilateral_relative",
        "sigma_space": 2.0,
        "sigma_range": 1.0,
    },
}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_range(name: str, value: object, low: float, high: float, also: str = "") -> None:
    if not (_is_number(value) and low <= value <= high):  # type: ignore[operator]
        raise ConfigError(f"{name} must be a number from {low} to {high}{also}, got {value!r}")


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"unknown {name} {value!r}; choose one of: {', '.join(choices)}")
