"""What every benchmark shares: interleaved timing, a record of the machine, the results file."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn", "opencv-python-headless", "kornia", "cfcam-gpu")


def interleaved(
    cases: Mapping[str, Callable[[], object]], repeats: int, warmup: int = 1
) -> dict[str, list[float]]:
    """Seconds of each case, `repeats` times, one case after the other in turn so that drift meets all alike.

    The device is synchronised before the clock is read.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(-warmup, repeats):
        for name, case in cases.items():
            _synchronize()
            start = time.perf_counter()
            case()
            _synchronize()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def summary(seconds: list[float], images: int) -> dict[str, float]:
    """Milliseconds an image: median, and the spread from minimum to maximum."""
    per_image = [1000 * s / images for s in seconds]
    return {
        "ms_per_image": round(statistics.median(per_image), 3),
        "ms_min": round(min(per_image), 3),
        "ms_max": round(max(per_image), 3),
    }


def ratio(numerator: list[float], denominator: list[float]) -> float:
    """Median of the ratios within the same turn."""
    return round(statistics.median(n / d for n, d in zip(numerator, denominator, strict=True)), 3)


def environment() -> dict[str, Any]:
    """Machine, versions and commit of a result."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "commit": _commit(),
        "python": platform.python_version(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _commit() -> str:
    """Short commit, with `+` when tracked files other than results differ from it."""
    root = RESULTS.parent.parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no", "--", ":!bench/results"],
            cwd=root, capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+" if dirty else "")


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def save(name: str, result: dict[str, Any]) -> None:
    """Write bench/results/NAME.json and print the same as the last line."""
    RESULTS.mkdir(exist_ok=True)
    result = {"benchmark": name, **result, "environment": environment()}
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))
