"""How does the cost grow with channels, resolution, batch and targets?

    python -m bench.scaling [--channels 256 4096] [--engine torch] [--device cuda]

Times `explain_activations` on generated features, varying one quantity at a time; and explanations of a whole
model for 1 to 16 classes per image, which share the forward pass and the clustering.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.common import (
    Case,
    Setup,
    arithmetic,
    command,
    interleaved,
    make_features,
    make_images,
    make_model,
    print_table,
    summary,
)
from bench.equivalence import check_engine, compare, required
from cfcam_gpu import CFCAM, CFCAMConfig, explain_activations


@dataclass(frozen=True)
class Options(Setup):
    """The values of each sweep; `batch` is the batch size of the sweeps that vary something else."""

    channels: tuple[int, ...] = (256, 512, 1024, 2048, 4096)
    sides: tuple[int, ...] = (7, 14, 28, 56)
    batches: tuple[int, ...] = (1, 4, 16, 64)
    targets: tuple[int, ...] = (1, 2, 4, 8, 16)
    batch: int = 4
    engine: str = "auto"
    repeats: int = 5


@dataclass(frozen=True)
class Point:
    """The shape of the features to explain."""

    batch: int
    channels: int
    side: int

    def case(self, options: Options) -> Case:
        activations, gradients = make_features(self.batch, self.channels, self.side, device=options.device)
        return functools.partial(
            explain_activations,
            activations,
            gradients,
            (options.side, options.side),
            engine=options.engine,
            on_invalid="flag",
        )


def sweeps(options: Options) -> dict[str, dict[int, Point]]:
    """The points of each sweep, by the varied value; the other quantities are those of ResNet-50's last layers."""
    return {
        "channels": {c: Point(options.batch, c, 7) for c in options.channels},
        "side": {s: Point(options.batch, 256, s) for s in options.sides},
        "batch": {b: Point(b, 2048, 7) for b in options.batches},
    }


def run(options: Options) -> dict[str, Any]:
    """The benchmark's result.

    Raises:
        SystemExit: the engine differs from the reference; nothing is timed.
    """
    equivalence = {}
    for name, points in sweeps(options).items():
        point = points[min(points)]
        features = make_features(min(2, point.batch), point.channels, point.side, device=options.device)
        comparison = compare(*features, (options.side, options.side), CFCAMConfig(), options.engine)
        equivalence[name] = required(comparison)
    result: dict[str, Any] = {"device": options.device, "equivalence": equivalence, "sweeps": {}}
    for name, points in sweeps(options).items():
        cases = {str(value): point.case(options) for value, point in points.items()}
        seconds = interleaved(cases, options.repeats)
        images = {str(value): point.batch for value, point in points.items()}
        result["sweeps"][name] = rows(seconds, images)
    return result | {"targets": by_targets(options)}


def rows(seconds: Mapping[str, Sequence[float]], images: Mapping[str, int]) -> dict[str, Any]:
    """By value: the time per image, and the exponent with which a call's time grew from the value before.

    Example:
        >>> rows({"2": [1.0], "4": [4.0]}, {"2": 1, "4": 1})["4"]["growth"]
        2.0
    """
    by_value: dict[str, Any] = {}
    before: str | None = None
    for value, times in seconds.items():
        by_value[value] = summary(times, images[value]) | {"growth": None}
        if before is not None:
            grown = min(times) / min(seconds[before])
            by_value[value]["growth"] = round(math.log(grown) / math.log(int(value) / int(before)), 2)
        before = value
    return by_value


def by_targets(options: Options) -> dict[str, Any]:
    """The time of explaining a model's batch for K classes per image, and of its forward pass alone."""
    model, images = make_model(options), make_images(options, options.batch)
    cam = CFCAM(model, options.layer, engine=options.engine)

    def forward() -> Any:
        with arithmetic(options), torch.inference_mode():
            return model(images)

    def explain(classes: Tensor) -> Any:
        with arithmetic(options):
            return cam(images, classes)

    with arithmetic(options):
        equivalence = check_engine(model, options.layer, images[:2], CFCAMConfig(), options.engine)
    ranked = forward().argsort(1, descending=True)
    cases: dict[str, Case] = {"forward only": forward}
    cases |= {str(k): functools.partial(explain, ranked[:, :k].clone()) for k in options.targets}
    seconds = interleaved(cases, options.repeats)
    return {
        "model": options.about,
        "batch": options.batch,
        "equivalence": equivalence,
        "cases": {name: summary(times, options.batch) for name, times in seconds.items()},
    }


def show(result: dict[str, Any]) -> None:
    """Prints a table for each sweep."""
    for name, by_value in result["sweeps"].items():
        columns = (name, "ms/image", "min", "max", "grows with power")
        print_table(
            f"cost against {name}, {result['device']}",
            columns,
            [(v, *row.values()) for v, row in by_value.items()],
        )
    targets = result["targets"]
    print_table(
        f"{targets['model']}, batch {targets['batch']}: cost against targets per image",
        ("targets", "ms/image", "min", "max"),
        [(name, *row.values()) for name, row in targets["cases"].items()],
    )


if __name__ == "__main__":
    command("scaling", Options, run, show, __doc__)
