"""How much CPU time does the main process of a dataset run need for an image, when all else is free?

    python -m bench.host [--images 12000] [--batch 64] [--workers 2]

A real run: plan, pipeline, worker processes, rows, and parts in a store on disk. Only two things cost nothing:
the workers have a decoded image of 224×224 pixels, and the model has a ready result with 7×7 maps, also of the
normalised images, which on a GPU the device makes. No overlays.

The CPU time is that of the process with all its threads, between two finished images, so that neither the start
nor other load on the machine counts. Its inverse is the most images a second that one process can pass on.
Prints a table, then one line of JSON with `main_cpu_ms_per_image`, which it also stores in bench/results/.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

from bench.common import command, print_table
from cfcam_gpu._utils.checks import Check
from cfcam_gpu.cli.progress import Follower
from cfcam_gpu.dataset.execution import pool as pools
from cfcam_gpu.dataset.execution.batch_explainer import BatchExplainer
from cfcam_gpu.dataset.execution.local import LocalPartExplainer
from cfcam_gpu.dataset.execution.observer import Observer
from cfcam_gpu.dataset.execution.pool import make_pool
from cfcam_gpu.dataset.options import RunOptions
from cfcam_gpu.dataset.run import carry_out
from cfcam_gpu.dataset.sources.sample import Sample
from cfcam_gpu.dataset.store.schema import Row
from cfcam_gpu.dataset.store.store import Store
from cfcam_gpu.explainer import CFCAM
from cfcam_gpu.explanation import Explanation
from cfcam_gpu.images.preprocess import PUBLISHED_PREPROCESS
from cfcam_gpu.models import LoadedModel

#: Images of a part.
PART = 1024

#: Few classes and channels: a GPU computes the probabilities and the fraction of noise, and the host only asks for it.
CLASSES, MAP_SHAPE, CHANNELS = 10, (7, 7), 8

#: Program of a worker process that has every image decoded; the way of its view to the main process is the real one.
_PROGRAM = (
    "import json, sys; descriptor, parent, path = json.loads(sys.argv[1]); sys.path[:] = path\n"
    "import contextlib, types\n"
    "import numpy as np\n"
    "from cfcam_gpu.dataset.execution import worker\n"
    "from cfcam_gpu.images.views import View\n"
    "view = View(np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8), 500, 375)\n"
    "worker.open_stream = lambda _: contextlib.nullcontext((None, ''))\n"
    "worker.DECODERS = {'full': types.SimpleNamespace(read=lambda *_: view)}\n"
    "worker.serve(descriptor, parent)"
)


@dataclass(frozen=True)
class Options:
    """Options of the benchmark.

    Attributes:
        images: number of images.
        batch: images of a batch.
        workers: worker processes.
    """

    images: int = 12_000
    batch: int = 64
    workers: int = 2


class FreeExplainer(BatchExplainer):
    """Has the result of a batch ready, whatever the images are."""

    def warm_up(self) -> None:
        self.map_shape, self.class_count = MAP_SHAPE, CLASSES
        self.results: dict[int, Explanation] = {}

    def _explanation(self, pixels: torch.Tensor, _targets: Any, check: Check) -> Explanation:
        check()
        count = len(pixels)
        return self.results.setdefault(count, made_explanation(count))


def made_explanation(count: int) -> Explanation:
    """A result like that of ResNet-50 for so many images; always the same."""
    generator = torch.Generator().manual_seed(0)
    return Explanation(
        heatmap=torch.zeros(count, 1, 1),
        grid=torch.rand(count, *MAP_SHAPE, generator=generator),
        peak=torch.rand(count, generator=generator),
        blank=torch.zeros(count, dtype=torch.bool),
        labels=torch.zeros(count, CHANNELS, dtype=torch.int64),
        n_clusters=torch.ones(count, dtype=torch.int64),
        eps=torch.ones(count, dtype=torch.float64),
        status=torch.zeros(count, dtype=torch.int64),
        engine="torch",
        logits=torch.randn(count, CLASSES, generator=generator),
        activation="softmax",
        targets=torch.arange(count) % CLASSES,
    )


class _Clock(Follower):
    """What the command shows; reads the clocks after the images number `first` and `last`, counted from 1."""

    def __init__(self, first: int, last: int) -> None:
        super().__init__()
        self.first, self.last = first, last
        self.count = 0
        self.readings: list[dict[str, float]] = []

    def row(self, row: Row) -> None:
        super().row(row)
        self.count += 1
        if self.count in (self.first, self.last):
            self.readings.append(
                {"process": time.process_time(), "thread": time.thread_time(), "wall": time.perf_counter()}
            )


def run(options: Options) -> dict[str, Any]:
    """The milliseconds of CPU time an image: of the main process, and of its main thread alone."""
    # Between the same places of two parts lie whole parts, with the storing of as many.
    parts = max(2, options.images // PART)
    clock = _Clock(first=PART, last=(parts - 1) * PART)
    with tempfile.TemporaryDirectory() as out, free_workers():
        explain(options, parts * PART, Path(out), clock)
    before, after = clock.readings
    images = clock.last - clock.first
    spent = {name: 1000 * (after[name] - before[name]) / images for name in before}
    return {
        "images": images,
        "batch": options.batch,
        "workers": options.workers,
        "main_cpu_ms_per_image": round(spent["process"], 4),
        "main_thread_cpu_ms_per_image": round(spent["thread"], 4),
        "other_threads_cpu_ms_per_image": round(spent["process"] - spent["thread"], 4),
        "most_images_per_s": round(1000 / spent["process"]),
        "images_per_s_here": round(1000 / spent["wall"]),
    }


def free_workers() -> AbstractContextManager[Any]:
    """Within it, worker processes have the view of every image ready."""
    return mock.patch.object(pools, "_PROGRAM", _PROGRAM)


def explain(options: Options, images: int, out: Path, observer: Observer) -> None:
    """Explains so many samples into a folder."""
    run_options = RunOptions(
        device="cpu", overlays="none", batch_size=options.batch, workers=options.workers, part_size=PART
    )
    model = nn.Sequential(nn.Conv2d(3, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(1, CLASSES)).eval()
    names = tuple(f"class {i}" for i in range(CLASSES))
    loaded = LoadedModel(model, PUBLISHED_PREPROCESS, names, "free", "random")
    explainer = FreeExplainer(loaded, CFCAM(model, "1"), torch.device("cpu"), options.batch)
    explainer.warm_up()
    samples = [
        Sample(f"n{i // 1300:08}/n{i // 1300:08}_{i}.JPEG", f"/data/imagenet/train/n{i // 1300:08}_{i}.JPEG")
        for i in range(images)
    ]
    content = {"fingerprint": {}, "shard_size": PART}
    with closing(make_pool(options.workers, run_options.sample_timeout)) as pool:
        part_explainer = LocalPartExplainer(explainer, run_options, pool)
        carry_out(Store(out), samples, part_explainer, content, run_options, observer)


def _show(result: dict[str, Any]) -> None:
    lines = [
        ("main thread", result["main_thread_cpu_ms_per_image"]),
        ("other threads", result["other_threads_cpu_ms_per_image"]),
        ("main process", result["main_cpu_ms_per_image"]),
    ]
    print_table("CPU time", ("of", "ms an image"), lines)
    print(f"one process can pass on {result['most_images_per_s']} images a second")


if __name__ == "__main__":
    command("host", Options, run, _show, __doc__)
