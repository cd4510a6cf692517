"""The parameters of CF-CAM and its presets."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cfcam_gpu._utils.messages import unknown
from cfcam_gpu._utils.option import METHOD, number_or_none, option
from cfcam_gpu.errors import ConfigError

#: Names of the filters of gradient maps; `cfcam_gpu.cfcam.filtering` has the functions.
FILTERS = ("bilateral", "bilateral_relative", "bilateral_square", "gaussian", "upstream", "none")
#: Names of the ways from gradients to channel weights; `cfcam_gpu.cfcam.weighting` has the functions.
WEIGHTINGS = ("mean", "softmax", "spatial")

#: How a layer's output may hold its map, see `cfcam_gpu.capture.layouts`; `auto`: found by looking at the output.
LAYOUT_NAMES = ("auto", "nchw", "nhwc", "tokens")

#: How logits become probabilities, see `cfcam_gpu.capture.scoring`; `auto`: sigmoid for one output, else softmax.
ACTIVATION_NAMES = ("auto", "softmax", "sigmoid")

#: The smallest eps (radius) of DBSCAN, in units of the activations (published code).
EPS_FLOOR = 1e-5

#: Two channels are neighbours when their distance is at most eps * (1 + EPS_SLACK). About every
#: second image has a pair of channels at distance eps exactly; without the slack, rounding would
#: decide whether they are neighbours. The threshold of dominant channels has the same slack.
EPS_SLACK = 1e-6

#: The largest factor of the images' size: above it no classifier of everyday images knows what it sees.
_LARGEST_SCALE = 8

#: Labels of the channels that are in no cluster.
NOISE = -1
DOMINANT = -2


@dataclass(frozen=True)
class CFCAMConfig:
    """Parameters of CF-CAM. Immutable: `dataclasses.replace` makes a changed copy.

    Attributes:
        dominant_percentile: a channel is dominant when its L2 norm reaches this percentile (0 to
            100) of the image's channel norms; it is weighted by its own gradient and not
            clustered. None: no channel is dominant.
        eps_percentile: DBSCAN's eps is this percentile (0 to 100) of the distances between channels.
        min_samples_fraction: DBSCAN's min_samples is this fraction (0 to 1) of the channels that
            are not dominant, rounded down, at least 2.
        filter: filter of each cluster's mean gradient map, one of `FILTERS`.
        sigma_space: spatial standard deviation of the filter, in cells of the layer's map.
        sigma_range: range standard deviation of the bilateral filters, in units of the gradient;
            for `bilateral_relative` in standard deviations of the map that is filtered.
        diameter: width of the filter's window in cells (odd). None: OpenCV's rule,
            2 * round(1.5 * sigma_space) + 1. A window wider than reflection at the map's border
            allows is made narrower.
        weighting: one of `WEIGHTINGS`. `mean`: a channel's weight is the mean of its gradient map,
            or of its cluster's filtered one; `softmax`: these means pass through a softmax over all
            channels that are not noise (published code); `spatial`: every cell has a weight of its
            own, the positive part of the gradient map, which is filtered for dominant channels too.
        fine_share: share (0 to 1) of the finer layer in the map of the methods `cfcam-fine` and
            `gradcam-fine`; other methods do not use it.

    Raises:
        ConfigError: a value is out of range or not one of the choices.

    Source: He, Pan and Yao 2025, arXiv 2504.00060, and its published code.

    Example:
        >>> config = CFCAMConfig(eps_percentile=10)
        >>> dataclasses.replace(config, filter="gaussian").eps_percentile
        10
    """

    dominant_percentile: float | None = field(
        default=75.0,
        metadata=option(
            "Channels from this percentile are dominant; or none.", METHOD, "P", parse=number_or_none
        ),
    )
    eps_percentile: float = field(
        default=25.0, metadata=option("Percentile of the distances that is eps.", METHOD, "P")
    )
    min_samples_fraction: float = field(
        default=0.05, metadata=option("DBSCAN's min_samples, as a share of the channels.", METHOD, "F")
    )
    filter: str = field(default="bilateral", metadata=option(f"One of {', '.join(FILTERS)}.", METHOD, "NAME"))
    sigma_space: float = field(
        default=5.0, metadata=option("Filter's width, in cells of the map.", METHOD, "S")
    )
    sigma_range: float = field(default=0.1, metadata=option("Filter's range, in gradients.", METHOD, "S"))
    diameter: int | None = field(default=None, metadata=option("Filter's window in cells, odd.", METHOD, "D"))
    weighting: str = field(
        default="mean", metadata=option(f"One of {', '.join(WEIGHTINGS)}.", METHOD, "NAME")
    )
    fine_share: float = field(
        default=0.4, metadata=option("Share of the finer layer in cfcam-fine's map, 0..1.", METHOD, "S")
    )

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
        """The configuration called `name` (a key of `PRESETS`); keywords replace single parameters.

        Raises:
            ConfigError: the preset or a parameter is unknown, or a value is out of range.

        Example:
            >>> CFCAMConfig.preset("upstream", eps_percentile=10).weighting
            'softmax'
        """
        _check_choice("preset", name, tuple(PRESETS))
        names = sorted(parameter.name for parameter in dataclasses.fields(cls))
        for key in overrides:
            _check_choice("parameter", key, tuple(names))
        return cls(**{**PRESETS[name], **overrides})

    def radius(self, h: int, w: int) -> int:
        """Radius, in cells, of the filter's window on an h×w map; reflection allows min(h, w) - 1 at most.

        Example:
            >>> CFCAMConfig().radius(28, 28), CFCAMConfig().radius(7, 5)
            (8, 4)
        """
        diameter = self.diameter or 2 * round(1.5 * self.sigma_space) + 1
        return min(diameter // 2, min(h, w) - 1)

    def min_samples(self, n: int) -> int:
        """DBSCAN's min_samples where n channels are clustered.

        Example:
            >>> CFCAMConfig().min_samples(1536)
            76
        """
        return max(2, int(self.min_samples_fraction * n))


def check_scales(scales: Sequence[float]) -> None:
    """Refuses factors of the images' size that are none.

    Raises:
        ConfigError: no factor, one twice, or one out of range.

    Example:
        >>> check_scales((1.0, 0.0))
        Traceback (most recent call last):
        cfcam_gpu.errors.ConfigError: scales must be different numbers above 0 and up to 8, like 1,1.43,2, got 1.0,0.0
    """
    valid = {scale for scale in scales if _is_number(scale) and 0 < scale <= _LARGEST_SCALE}
    if not scales or len(valid) < len(scales):
        raise ConfigError(
            f"scales must be different numbers above 0 and up to {_LARGEST_SCALE}, like 1,1.43,2, got "
            f"{','.join(map(str, scales)) or 'none'}"
        )


#: Name of a preset -> the parameters in which it differs from the default.
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # The published code: softmax over the pooled weights and a global filter.
    "upstream": {"filter": "upstream", "weighting": "softmax"},
    # The steps in the published README taken literally: every channel is clustered.
    "workflow": {"dominant_percentile": None},
    # For layers before the last one, where gradients differ from cell to cell.
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
        raise ConfigError(unknown(name, value, choices))
