"""What does a map of each method cost, beside a forward pass of the same images, one at a time and in a batch?

    python -m bench.method_cost [--batches 1 16] [--repeats 7] [--methods gradcam cfcam]

The packaged EfficientNet-Lite0 explains the demo's photos on the CPU, as often as a batch needs; all methods and the
forward pass take turns in one process. Methods that run the model many times are left out, but for `--methods`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.common import command, interleaved, print_table, ratio, summary
from bench.scenes import VARIANTS
from cfcam_gpu import CFCAM
from cfcam_gpu.cli.demo_photos import MODEL, find_photos
from cfcam_gpu.dataset.sources.open_image import open_image
from cfcam_gpu.models import load_model

FORWARD = "forward pass"


@dataclass(frozen=True)
class Options:
    """Sizes of the batches; labels of `bench.scenes.VARIANTS`; after `limit_s` seconds at a size no further turn
    starts, once there are three.
    """

    batches: tuple[int, ...] = (1, 16)
    methods: tuple[str, ...] = (
        "gradcam", "layercam", "cfcam", "cfcam-fine", "refinecam", "reciprocam", "cfcam-sharp",
        "gradcam, three sizes", "cfcam-sharp, three sizes",
    )  # fmt: skip
    repeats: int = 7
    limit_s: float = 150.0


def run(options: Options) -> dict[str, Any]:
    """The benchmark's result: for each size milliseconds an image, and the median ratio to the forward pass."""
    loaded = load_model(MODEL)
    views = [loaded.preprocess(open_image(sample.uri)) for sample in find_photos()[0]]

    def forward(images: Tensor) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = loaded.model(images)
        return logits

    work: dict[str, Callable[[Tensor], Any]] = {FORWARD: forward}
    work |= {label: CFCAM(loaded.model, **VARIANTS[label]) for label in options.methods}
    return {
        "model": MODEL,
        "batches": {str(size): _measure(work, views, size, options) for size in options.batches},
    }


def _measure(
    work: Mapping[str, Callable[[Tensor], Any]], views: list[Tensor], size: int, options: Options
) -> dict[str, Any]:
    images = torch.stack([views[i % len(views)] for i in range(size)])
    cases = {name: functools.partial(call, images) for name, call in work.items()}
    seconds = interleaved(cases, options.repeats, limit_s=options.limit_s)
    return {
        name: {**summary(seconds[name], size), "passes": ratio(seconds[name], seconds[FORWARD])}
        for name in work
    }


def show(result: dict[str, Any]) -> None:
    """Prints a table for each size of the batch."""
    for size, rows in result["batches"].items():
        print_table(
            f"{result['model']}, batch {size}",
            ("method", "ms/image", "min", "max", "÷ forward pass"),
            [(name, *row.values()) for name, row in rows.items()],
        )


if __name__ == "__main__":
    command("method_cost", Options, run, show, __doc__)
