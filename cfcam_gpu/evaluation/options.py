"""The settings of an evaluation, checked before anything is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cfcam_gpu._utils.messages import unknown
from cfcam_gpu._utils.option import METHOD, OUTPUT, comma_separated, option
from cfcam_gpu.config import CFCAMConfig
from cfcam_gpu.dataset.options import RunOptions
from cfcam_gpu.errors import ConfigError
from cfcam_gpu.methods import METHODS, Method, find_method, parse_method
from cfcam_gpu.metrics.base import Column, Metric
from cfcam_gpu.metrics.options import MetricOptions
from cfcam_gpu.metrics.registry import METRICS

#: What is measured unless metrics are named. Those that need masks are measured where images have masks.
DEFAULT_METRICS = ("drop", "deletion", "insertion", "gradient_noise", "class_sensitivity", "localisation")

#: The name that stands for all methods, or all metrics.
_ALL = "all"

#: Settings of `RunOptions` that an evaluation does not read -> what to give instead.
UNUSED = {
    "method": "give methods",
    "config": "give methods, such as {'mine': CFCAMConfig(...)}",
    "top_k": "it measures one class an image; give target",
    "multi_label": "it measures one class an image; give target, and activation sigmoid",
    "eigen_smooth": "it compares the methods themselves",
    "overlays": "it draws a grid of maps by itself",
    "cmap": "it draws a grid of maps by itself",
    "alpha": "it draws a grid of maps by itself",
    "labels": "it does not compare predictions with labels",
}


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(RunOptions):
    """Settings of `evaluate`: those of a dataset run (without those in `UNUSED`) and the following.

    Attributes:
        methods: the methods to compare. A list of names or presets such as `cfcam:upstream`, or of the single name
            `all`; or a mapping from a label to such a name, to a configuration of CF-CAM, or to a pair of name and
            configuration.
        metrics: keys of `METRICS`, or the single name `all`; None: `DEFAULT_METRICS`.
        masks: folder with a mask NAME.png for each image that has one (see `dataset.sources.masks`).
        baseline: label of the method that the others are compared with, if it is among them.
        measuring: settings of the metrics.
        resamples, level: number of resamples and level of the bootstrap intervals.
        plots: whether plots are drawn.

    Raises:
        ConfigError: a value out of range, an unknown method or metric, or a parameter that a method does not read.

    Example:
        >>> options = EvaluationOptions(methods={"mine": CFCAMConfig(filter="none"), "gradcam": "gradcam"})
        >>> list(options.methods_by_label())
        ['mine', 'gradcam']
        >>> EvaluationOptions(metrics=["localisation", "localisation"])
        Traceback (most recent call last):
        cfcam_gpu.errors.ConfigError: metric 'localisation' is named twice
    """

    overlays: str = "none"
    methods: Sequence[str] | Mapping[str, str | CFCAMConfig | tuple[str, CFCAMConfig]] = field(
        default=("cfcam", "gradcam"),
        metadata=option(
            f"all, or of these, or cfcam:PRESET: {', '.join(METHODS)}.",
            METHOD,
            "NAME,NAME",
            text="cfcam,gradcam",
            parse=comma_separated,
        ),
    )
    metrics: Sequence[str] | None = field(
        default=None,
        metadata=option(
            f"all, or of these: {', '.join(METRICS)}; unless given {', '.join(DEFAULT_METRICS)}.",
            METHOD,
            "NAME,NAME",
            parse=comma_separated,
        ),
    )
    masks: str | Path | None = field(
        default=None,
        metadata=option("Folder of the objects' masks, NAME.png for each image.", METHOD, "DIR", parse=Path),
    )
    baseline: str = field(
        default="gradcam", metadata=option("Method the others are compared with.", METHOD, "NAME")
    )
    measuring: MetricOptions = field(default_factory=MetricOptions)
    resamples: int = 2000
    level: float = 0.95
    plots: bool = field(default=True, metadata=option("Draw plots, in DIR/plots and on the page.", OUTPUT))

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse_unused()
        if self.resamples < 1 or not 0 < self.level < 1:
            raise ConfigError(
                "intervals need at least 1 resample and a level between 0 and 1, "
                f"got {self.resamples} and {self.level}"
            )
        labels = list(self.methods_by_label())
        if self.baseline not in labels and self.baseline != "gradcam":
            raise ConfigError(f"the baseline {self.baseline!r} is none of the methods: {', '.join(labels)}")
        self.metrics_to_measure(masked=True)

    def _refuse_unused(self) -> None:
        """Raises ConfigError for a setting in `UNUSED` that is not at its default."""
        unused = RunOptions(overlays="none")
        for name, instead in UNUSED.items():
            if getattr(self, name) != getattr(unused, name):
                raise ConfigError(f"an evaluation takes no {name}; {instead}")

    def _check_finer(self, method: Method) -> None:
        """A finer layer is allowed if any of the methods reads two layers."""
        methods = [METHODS[name] for name, _ in self.methods_by_label().values()]
        super()._check_finer(next((m for m in methods if m.needs_finer), method))

    def methods_by_label(self) -> dict[str, tuple[str, CFCAMConfig]]:
        """From the label of each method to its name and configuration, in the order of `methods`.

        Raises:
            ConfigError: no method, an unknown one, or a parameter that a method does not read.

        Example:
            >>> list(EvaluationOptions(methods=["gradcam", "cfcam:upstream"]).methods_by_label())
            ['gradcam', 'cfcam:upstream']
        """
        if isinstance(self.methods, Mapping):
            methods = {label: _name_and_config(method) for label, method in self.methods.items()}
        else:
            names = _listed("method", self.methods)
            methods = {_label(name): parse_method(name) for name in (METHODS if names == [_ALL] else names)}
        if not methods:
            raise ConfigError(f"no method is given; choose among: {', '.join(METHODS)}")
        for name, config in methods.values():
            METHODS[name].check_config(config)
        return methods

    def metrics_to_measure(self, *, masked: bool) -> list[Metric]:
        """The metrics to measure, in order.

        Args:
            masked: whether any image has a mask. If none has, metrics that need masks are left out.

        Raises:
            ConfigError: an unknown metric, or a named metric that needs masks where no image has one.

        Example:
            >>> [metric.name for metric in EvaluationOptions(metrics=["road", "drop"]).metrics_to_measure(masked=False)]
            ['road', 'drop']
        """
        names = list(DEFAULT_METRICS) if self.metrics is None else _listed("metric", self.metrics)
        for name in names:
            if name not in METRICS and names != [_ALL]:
                raise ConfigError(unknown("metric", name, METRICS))
        metrics = [METRICS[name] for name in (METRICS if names == [_ALL] else names)]
        if masked:
            return metrics
        if self.metrics is not None and names != [_ALL]:
            for metric in metrics:
                if metric.needs_masks:
                    raise ConfigError(
                        f"metric {metric.name!r} needs masks of the objects and no image has one; give a "
                        "folder of masks, or a manifest with a column mask or box"
                    )
        return [metric for metric in metrics if not metric.needs_masks]

    def fingerprint(self, metrics: Sequence[Metric]) -> dict[str, Any]:
        """The part of the fingerprint that depends on these settings: an evaluation goes on only if it is equal."""
        return {
            "methods": {
                label: {"method": name, **_parameters(METHODS[name], config)}
                for label, (name, config) in self.methods_by_label().items()
            },
            "finer_layer": self.finer_layer,
            "metrics": [metric.name for metric in metrics],
            "measuring": {
                name: list(value) if isinstance(value, tuple) else value
                for name, value in dataclasses.asdict(self.measuring).items()
                if name != "batch_size"
            },
            "masks": None if self.masks is None else str(Path(self.masks).absolute()),
        }


def _parameters(method: Method, config: CFCAMConfig) -> dict[str, Any]:
    """The parameters of a method in the fingerprint.

    For CF-CAM these are all. For other methods they are those that the method reads and that are not at their default:
    evaluations stored by earlier versions have no parameters of such methods, and mean the defaults.
    """
    if method.is_cfcam:
        return {"config": dataclasses.asdict(config)}
    default = method.config_read(CFCAMConfig())
    changed = {name: value for name, value in method.config_read(config).items() if value != default[name]}
    return {"config": changed} if changed else {}


def _label(text: str) -> str:
    """A method, or one with a preset, as it is written in the table."""
    name, colon, preset = text.partition(":")
    return find_method(name).name + colon + preset


def _name_and_config(method: str | CFCAMConfig | tuple[str, CFCAMConfig]) -> tuple[str, CFCAMConfig]:
    if isinstance(method, CFCAMConfig):
        return "cfcam", method
    if isinstance(method, tuple):
        return find_method(method[0]).name, method[1]
    return parse_method(method)


def columns_of(metrics: Sequence[Metric]) -> list[Column]:
    """The columns that metrics fill, in order.

    Example:
        >>> [column.name for column in columns_of([METRICS["drop"]])]
        ['average_drop', 'increase']
    """
    return [column for metric in metrics for column in metric.columns]


def _listed(kind: str, names: Sequence[str]) -> list[str]:
    """The names as a list.

    Raises:
        ConfigError: a text instead of a list, no name, or a name twice.
    """
    if isinstance(names, str):
        raise ConfigError(f"{kind}s must be a list of names, got the text {names!r}")
    listed = list(names)
    for name in listed:
        if listed.count(name) > 1:
            raise ConfigError(f"{kind} {name!r} is named twice")
    if not listed:
        raise ConfigError(f"no {kind} is given")
    return listed
