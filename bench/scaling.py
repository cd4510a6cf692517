"""How does the cost grow with channels, resolution, batch and targets?

    python -m bench.scaling [--channels 256 4096] [--engine torch] [--device cuda]

`explain_activations` on generated features, one quantity varied at a time; and a whole model
explained for 1 to 16 classes an image, which share the forward pass and the clustering.
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
    """The values of each sweep; `batch` images where the batch is not the quantity varied."""

    channels: tuple[int, ...] = (256, 512, 1024, 2048, 4096)
    sides: tuple[int, ...] = (7, 14, 28, 56)
    batches: tuple[int, ...] = (1, 4, 16, 64)
    targets: tuple[int, ...] = (1, 2, 4, 8, 16)
    batch: int = 4
    engine: str = "auto"
    repeats: int = 5


@dataclass(frozen=True)
class Point:
    """Features to explain."""

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
    """The points of each sweep by the value varied; what stands still has the size of ResNet-50's last layers."""
    return {
        "channels": {c: Point(options.batch, c, 7) for c in options.channels},
        "side": {s: Point(options.batch, 256, s) for s in options.sides},
        "batch": {b: Point(b, 2048, 7) for b in options.batches},
    }


def run(options: Options) -> dict[str, Any]:
    """The benchmark's result.

    Raises:
        SystemExit: the engine does not agree with the reference; nothing is timed.
    """
    equivalence = {}
    for name, points in sweeps(options).items():
        point = points[min(points)]
        features = make_features(min(2, point.batch), point.channels, point.side, device=options.device)
        seen = compare(*features, (options.side, options.side), CFCAMConfig(), options.engine)
        equivalence[name] = required(seen)
    result: dict[str, Any] = {"device": options.device, "equivalence": equivalence, "sweeps": {}}
    for name, points in sweeps(options).items():
        cases = {str(value): point.case(options) for value, point in points.items()}
        seconds = interleaved(cases, options.repeats)
        images = {str(value): point.batch for value, point in points.items()}
        result["sweeps"][name] = rows(seconds, images)
    return result | {"targets": by_targets(options)}


def rows(seconds: Mapping[str, Sequence[float]], images: Mapping[str, int]) -> dict[str, Any]:
    """By value: the time an image, and the exponent with which a call's time grew since the value before."""
    found: dict[str, Any] = {}
    before: str | None = None
    for value, times in seconds.items():
        found[value] = summary(times, images[value]) | {"growth": None}
        if before is not None:
            grown = min(times) / min(seconds[before])
            found[value]["growth"] = round(math.log(grown) / math.log(int(value) / int(before)), 2)
        before = value
    return found


def by_targets(options: Options) -> dict[str, Any]:
    """A model's batch explained for K classes an image, beside its forward pass alone."""
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
    """A table for each sweep."""
    for name, found in result["sweeps"].items():
        columns = (name, "ms/image", "min", "max", "grows with power")
        print_table(
            f"cost against {name}, {result['device']}",
            columns,
            [(v, *row.values()) for v, row in found.items()],
        )
    targets = result["targets"]
    print_table(
        f"{targets['model']}, batch {targets['batch']}: cost against targets an image",
        ("targets", "ms/image", "min", "max"),
        [(name, *row.values()) for name, row in targets["cases"].items()],
    )


if __name__ == "__main__":
    command("scaling", Options, run, show, __doc__)
