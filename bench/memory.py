"""How much memory does an explanation need, and does it grow over a thousand batches?

    python -m bench.memory [--batches 1 16 64] [--calls 1000] [--device cuda]

Peak: of a forward pass and of an explanation, each in a process of its own. Growth: a small model is explained,
and `explain_activations` called, again and again; memory and live tensors are compared after a tenth of the calls
and after all of them. The command fails if they grow.
"""

from __future__ import annotations

import gc
import multiprocessing
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.common import Setup, arithmetic, command, make_features, make_images, make_model, print_table
from bench.equivalence import check_engine, compare, required
from cfcam_gpu import CFCAM, CFCAMConfig, explain_activations

#: Growth below one of these counts as none, since the allocator keeps some freed pages.
GROWTH_SHARE = 0.01
GROWTH_MB = 8.0

MB = 2**20


@dataclass(frozen=True)
class Options(Setup):
    """Batch sizes whose peak is measured; calls, model, image side and batch size of the growth."""

    batches: tuple[int, ...] = (1, 16, 64)
    calls: int = 1000
    small_model: str = "resnet18"
    small_side: int = 64
    small_batch: int = 2


def run(options: Options) -> dict[str, Any]:
    """The benchmark's result; `failed` says where memory grows.

    Raises:
        SystemExit: the engine differs from the reference; nothing is measured.
    """
    small = replace(options, model=options.small_model, side=options.small_side)
    model, images = make_model(small), make_images(small, options.small_batch)
    features = make_features(options.small_batch, 64, 7, device=options.device)
    with arithmetic(options):
        equivalence = check_engine(model, small.layer, images[:2], CFCAMConfig(), "auto")
    required(compare(*features, (56, 56), CFCAMConfig(), "auto"))
    cam = CFCAM(model, small.layer)

    def explain() -> None:
        with arithmetic(small):
            cam(images)

    works = {
        f"{small.about}, batch {options.small_batch}": explain,
        "explain_activations, 64 channels, 7x7": lambda: explain_activations(*features, (56, 56)),
    }
    grown = {name: growth(work, options.calls) for name, work in works.items()}
    return {
        "model": options.about,
        "device": options.device,
        "equivalence": equivalence,
        "peak": {str(batch): peaks(options, batch) for batch in options.batches},
        "growth": grown,
        "criterion": f"below {GROWTH_SHARE:.0%} or {GROWTH_MB:g} MB, and no live tensor more",
        "failed": [
            f"memory grows: {name}: {figures}" for name, figures in grown.items() if not figures["none"]
        ],
    }


def growth(work: Callable[[], object], calls: int) -> dict[str, Any]:
    """Memory and live tensors after a tenth of the calls, and after all; `none`: whether they do not grow."""
    early = max(1, calls // 10)
    for _ in range(early):
        work()
    before = usage()
    for _ in range(calls - early):
        work()
    after = usage()
    limit = max(GROWTH_MB, GROWTH_SHARE * before["rss_mb"])
    none = (
        after["rss_mb"] - before["rss_mb"] < limit
        and after["tensors"] <= before["tensors"]
        and after["cuda_mb"] <= before["cuda_mb"]
    )
    return {"calls": [early, calls], "before": before, "after": after, "none": none}


def usage() -> dict[str, float]:
    """Resident memory in MB, PyTorch's memory on the GPU in MB, and the number of live tensors."""
    gc.collect()
    return {
        "rss_mb": round(resident("VmRSS") / MB, 1),
        "cuda_mb": round(torch.cuda.memory_allocated() / MB, 3) if torch.cuda.is_available() else 0.0,
        "tensors": sum(issubclass(type(thing), Tensor) for thing in gc.get_objects()),
    }


def resident(field: str) -> int:
    """Bytes of this process's VmRSS (now) or VmHWM (peak); off Linux the peak for both."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith(field))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peaks(options: Options, batch: int) -> dict[str, float]:
    """Peak MB of a forward pass and of an explanation, each in a new process; and the difference."""
    peak = {}
    for name in ("forward only", "explained"):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            peak[name] = pool.submit(peak_mb, name, options, batch).result()
    return {**peak, "added": round(peak["explained"] - peak["forward only"], 1)}


def peak_mb(name: str, setup: Setup, batch: int) -> float:
    """Peak MB of this process: resident, with the libraries; for a GPU, of PyTorch's memory there."""
    model, images = make_model(setup), make_images(setup, batch)
    cam = CFCAM(model, setup.layer)
    with arithmetic(setup):
        if name == "explained":
            cam(images)
        else:
            with torch.inference_mode():
                model(images)
    if setup.device.startswith("cuda"):
        return round(torch.cuda.max_memory_allocated() / MB, 1)
    return round(resident("VmHWM") / MB, 1)


def show(result: dict[str, Any]) -> None:
    """Prints the peak by batch size, then the growth."""
    print_table(
        f"peak, MB: {result['model']}, {result['device']}",
        ("batch", "forward only", "explained", "added"),
        [(batch, *row.values()) for batch, row in result["peak"].items()],
    )
    print_table(
        f"growth ({result['criterion']})",
        ("work", "calls", "MB before", "MB after", "tensors before", "tensors after", "none"),
        [
            (
                name,
                figures["calls"][1],
                *(figures[when][what] for what in ("rss_mb", "tensors") for when in ("before", "after")),
                figures["none"],
            )
            for name, figures in result["growth"].items()
        ],
    )


if __name__ == "__main__":
    command("memory", Options, run, show, __doc__)
