"""How long does each stage of an explanation take, and how much is the least the machine needs for it?

    python -m bench.stages [--batch 16] [--engine torch] [--device cuda]

One batch is explained stage by stage, with the clock read in between. Each stage is compared with its floor:
operations ÷ the machine's peak or bytes ÷ its bandwidth, whichever is larger; both peaks are measured in the
same run. bench/README.md derives the counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.common import (
    Setup,
    arithmetic,
    command,
    interleaved,
    make_images,
    make_model,
    print_table,
    summary,
    synchronize,
)
from bench.equivalence import check_engine
from bench.floors import Count, model_counts, stage_counts
from bench.machine import peaks
from cfcam_gpu import CFCAM, CFCAMConfig
from cfcam_gpu._utils.precision import full_float32
from cfcam_gpu.capture import capture
from cfcam_gpu.capture.layers import TargetLayer, find_layer
from cfcam_gpu.cfcam.clustering import (
    CHUNK_BYTES,
    Clusters,
    Scan,
    cluster_channels,
    dbscan,
    distance_percentile,
    min_samples,
    pairwise_distances,
)
from cfcam_gpu.cfcam.maps import upsample_and_normalise
from cfcam_gpu.cfcam.weighting import activation_map, channel_weights
from cfcam_gpu.config import EPS_FLOOR, NOISE
from cfcam_gpu.engines import resolve_engine
from cfcam_gpu.methods import Features
from cfcam_gpu.models.prepare import DTYPES

#: The stages of the numba engine's scan of the channels, in order.
SCAN_STAGES = ("neighbours", "search")


@dataclass(frozen=True)
class Options(Setup):
    """Options of this benchmark; `engine` is the one whose stages are timed."""

    batch: int = 16
    engine: str = "auto"
    repeats: int = 5


@dataclass
class Clock:
    """Seconds by stage; `mark` adds the time since the last mark to a stage."""

    seconds: dict[str, float] = field(default_factory=dict)
    last: float = 0.0

    def start(self) -> None:
        synchronize()
        self.last = time.perf_counter()

    def mark(self, stage: str) -> None:
        synchronize()
        now = time.perf_counter()
        self.add(stage, now - self.last)
        self.last = now

    def add(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds


#: (clock, activations (B,C,h,w), gradients (B,K,C,h,w), (H,W)) -> the clusters.
Steps = Callable[[Clock, Tensor, Tensor, tuple[int, int]], Clusters]


def numba_scan(clock: Clock) -> Scan:
    """The scan of the numba engine, image by image in its threads; the time of a stage is the mean over the threads."""
    from cfcam_gpu.engines import numba_scan as engine

    def scan(features: Tensor, valid: Tensor, config: CFCAMConfig) -> tuple[Tensor, Tensor, Tensor]:
        x, counts = features.contiguous().numpy(), valid.sum(1).tolist()
        labels = np.full(x.shape[:2], NOISE)
        n_clusters, eps = np.zeros(len(x), np.int64), np.full(len(x), EPS_FLOOR)
        threads = max(1, min(torch.get_num_threads(), len(x)))

        def work(first: int) -> list[tuple[str, float]]:
            scratch = engine.Scratch.of(x.shape[1])
            times: list[tuple[str, float]] = []
            for b in range(first, len(x), threads):
                n = counts[b]
                if n < 2:
                    continue
                reads = [time.perf_counter()]
                eps[b] = engine.neighbours(x[b, :n], config.eps_percentile, scratch)
                reads.append(time.perf_counter())
                n_clusters[b] = engine.search(
                    scratch.rows, scratch.order[:n], config.min_samples(n), labels[b]
                )
                reads.append(time.perf_counter())
                times += list(zip(SCAN_STAGES, np.diff(reads).tolist(), strict=True))
            return times

        with ThreadPoolExecutor(threads) as pool:
            for times in pool.map(work, range(threads)):
                for stage, seconds in times:
                    clock.add(stage, seconds / threads)
        return torch.from_numpy(labels), torch.from_numpy(n_clusters), torch.from_numpy(eps)

    return scan


def torch_scan(clock: Clock) -> Scan:
    """The scan of the torch engine, in its chunks; there neighbours and search are one stage."""

    def scan(features: Tensor, valid: Tensor, config: CFCAMConfig) -> tuple[Tensor, Tensor, Tensor]:
        step = max(1, CHUNK_BYTES[features.device.type] // (16 * features.shape[1] ** 2))
        chunks = []
        for chunk, rows in zip(features.split(step), valid.split(step), strict=True):
            counts = rows.sum(1)
            distances = pairwise_distances(chunk, rows)
            clock.mark("distances")
            eps = distance_percentile(distances, counts, config.eps_percentile)
            clock.mark("percentile")
            labels, n_clusters = dbscan(distances, eps, min_samples(counts, config))
            clock.mark("neighbours and search")
            chunks.append((labels, n_clusters, eps))
        labels, n_clusters, eps = (torch.cat(column) for column in zip(*chunks, strict=True))
        return labels, n_clusters, eps

    return scan


def steps_in_pytorch(scan: Callable[[Clock], Scan]) -> Steps:
    """The steps of an engine that clusters by a scan of its own, and has all others in PyTorch."""

    def steps(clock: Clock, activations: Tensor, gradients: Tensor, size: tuple[int, int]) -> Clusters:
        config = CFCAMConfig()
        activations, gradients = finite(activations, gradients, size)
        clock.mark("finite values")
        inner = scan(clock)

        def timed(features: Tensor, valid: Tensor, config: CFCAMConfig) -> tuple[Tensor, Tensor, Tensor]:
            clock.mark("dominance")
            result = inner(features, valid, config)
            clock.start()
            return result

        clusters = cluster_channels(activations, config, timed)
        clock.mark("dominance")
        weights = channel_weights(gradients, clusters, config)
        clock.mark("means, filter, weights")
        grid = activation_map(activations, weights)
        clock.mark("map")
        upsample_and_normalise(grid, size)
        clock.mark("upsampling")
        return clusters

    return steps


def triton_steps(clock: Clock, activations: Tensor, gradients: Tensor, size: tuple[int, int]) -> Clusters:
    """The engine itself, which says where a stage ends."""
    from cfcam_gpu.engines import triton_engine

    result = triton_engine.explain(activations, gradients, size, CFCAMConfig(), mark=clock.mark)
    assert result.labels is not None
    assert result.n_clusters is not None
    assert result.eps is not None
    return Clusters(result.labels, result.n_clusters, result.eps)


@dataclass(frozen=True)
class EngineStages:
    """How an engine is timed stage by stage.

    Attributes:
        steps: explains activations and gradients, and reads the clock after every stage.
        distances_stored: whether the engine stores the distances between channels.
    """

    steps: Steps
    distances_stored: bool = True


ENGINE_STAGES = {
    "numba": EngineStages(steps_in_pytorch(numba_scan), distances_stored=False),
    "torch": EngineStages(steps_in_pytorch(torch_scan)),
    "triton": EngineStages(triton_steps, distances_stored=False),
}


@dataclass(frozen=True)
class StagedRun:
    """Seconds by stage, the clusters, and the shape (B, C, h, w) of the activations."""

    seconds: dict[str, float]
    clusters: Clusters
    shape: torch.Size


def finite(activations: Tensor, gradients: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """As `explain_activations` looks for NaN and Inf, and copies the features of a batch that has any."""
    features = Features(activations=activations, gradients=gradients, size=size)
    of_activations, of_gradients = features.not_finite()
    features = features.without(of_activations | of_gradients)
    return features.activations, features.gradients


def explain_in_stages(
    model: nn.Module, layer: TargetLayer, images: Tensor, stages: EngineStages
) -> StagedRun:
    """The steps of `CFCAM` and `explain_activations`, with the clock read between them."""
    clock = Clock()
    clock.start()
    at_layer = layer.module.register_forward_hook(lambda *_: clock.mark("forward to the layer"))
    try:
        captured = capture(model, layer, images)
    finally:
        at_layer.remove()
    clock.mark("head and its backward")
    with full_float32(images.device):
        activations = captured.activations.float()
        clusters = stages.steps(clock, activations, captured.gradients, (images.shape[2], images.shape[3]))
    return StagedRun(clock.seconds, clusters, activations.shape)


def run(options: Options) -> dict[str, Any]:
    """The benchmark's result.

    Raises:
        SystemExit: the engine differs from the reference, or the stages from the engine; nothing is timed.
    """
    model, images = make_model(options), make_images(options, options.batch)
    layer = find_layer(model, options.layer)
    engine = resolve_engine(options.engine, images.device)
    if engine not in ENGINE_STAGES:
        raise SystemExit(
            f"the stages of engine {engine!r} are not timed; choose one of: {', '.join(ENGINE_STAGES)}"
        )
    cam, stages = CFCAM(model, options.layer, engine=engine), ENGINE_STAGES[engine]
    with arithmetic(options):
        equivalence = check_engine(model, options.layer, images[:2], CFCAMConfig(), engine)
        whole, staged = cam(images), explain_in_stages(model, layer, images, stages)
        assert whole.labels is not None
        if not torch.equal(whole.labels, staged.clusters.labels):
            raise SystemExit(
                "equivalence check failed, nothing is timed: the stages' labels are not the engine's"
            )
        counts = model_counts(model, layer, images[:1], options.batch)
        counts |= stage_counts(
            staged.shape,
            images.shape[2:],
            staged.clusters,
            CFCAMConfig(),
            distances_stored=stages.distances_stored,
        )
        turns: list[dict[str, float]] = []
        seconds = interleaved(
            {
                "explained": lambda: cam(images),
                "in stages": lambda: turns.append(explain_in_stages(model, layer, images, stages).seconds),
            },
            options.repeats,
        )
    machine = peaks(options.device, DTYPES.get(options.precision, torch.bfloat16))
    return {
        "model": options.about,
        "device": options.device,
        "batch": options.batch,
        "engine": engine,
        "equivalence": equivalence,
        "machine": machine,
        "stages": {
            name: compared_with_floor(
                [turn[name] for turn in turns[-options.repeats :]], counts[name], machine, options
            )
            for name in turns[-1]
        },
        "explained": summary(seconds["explained"], options.batch),
        "in_stages": summary(seconds["in stages"], options.batch),
    }


def compared_with_floor(
    seconds: Sequence[float], count: Count, machine: Mapping[str, Any], options: Options
) -> dict[str, float | None]:
    """A stage's time per image, its operations and bytes, its floor, and time ÷ floor."""
    times, floor = summary(seconds, options.batch), count.floor_ms(machine)
    return {
        **times,
        "mflop": round(count.flops / 1e6, 3),
        "mbyte": round(count.bytes / 1e6, 4),
        "floor_ms": round(floor, 5),
        "over_floor": round(times["ms_per_image"] / floor, 1) if floor else None,
    }


def show(result: dict[str, Any]) -> None:
    """Prints the stages, and the peaks that the floors come from."""
    columns = ("stage", "ms/image", "min", "max", "Mflop", "MB", "floor, ms", "÷ floor")
    print_table(
        f"{result['model']}, batch {result['batch']}, engine {result['engine']}, {result['device']}",
        columns,
        [(name, *row.values()) for name, row in result["stages"].items()],
    )
    print(
        f"in stages {result['in_stages']['ms_per_image']} ms per image, in one call "
        f"{result['explained']['ms_per_image']}"
    )
    print(f"peaks measured: {result['machine']}")


if __name__ == "__main__":
    command("stages", Options, run, show, __doc__)
