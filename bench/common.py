"""Shared by the benchmarks: options, the model, interleaved timing, a record of the machine, the results file."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import math
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor, nn
from torchvision.models import get_model

from cfcam_gpu import CFCAMError
from cfcam_gpu.models.options import PRECISIONS
from cfcam_gpu.models.prepare import DTYPES, prepared

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "torch", "torchvision", "triton", "numpy", "numba", "scikit-learn", "opencv-python-headless", "kornia",
    "cuml-cu12", "cuml-cu13", "cfcam-gpu",
)  # fmt: skip
SEED = 0
#: Groups of similar channels in generated features.
GROUPS = 5
#: Characters of a printed table's line.
WIDTH = 118

#: A case of a benchmark: does the work once. Its return value is not used.
Case = Callable[[], Any]


@dataclass(frozen=True)
class Setup:
    """The model that is explained, and how it runs. Each field is an option of the benchmarks that use a model.

    Attributes:
        model: name in torchvision, with random weights.
        layer: the target layer.
        side: height and width of the random images.
        device: cpu or cuda.
        precision: of the model: float32, bfloat16, float16, or autocast (float32 weights under
            bfloat16 autocast).
        channels_last: whether the model and the images are in the NHWC memory format.
    """

    model: str = "resnet50"
    layer: str = "layer4"
    side: int = 224
    device: str = "cpu"
    precision: str = "float32"
    channels_last: bool = False

    @property
    def about(self) -> str:
        """The model and how it runs, in words."""
        memory_format = ", channels last" if self.channels_last else ""
        size = f"{self.side}x{self.side}"
        return f"{self.model}, random weights, {self.layer}, {size}, {self.precision}{memory_format}"


OptionsT = TypeVar("OptionsT")


def parse(kind: type[OptionsT], about: str | None, arguments: Sequence[str] | None = None) -> OptionsT:
    """Options from the command line: `--name` for each field of the dataclass, with the field's default.

    Raises:
        SystemExit: an option is unknown, or there is no such device or precision.
    """
    parser = argparse.ArgumentParser(description=(about or "").partition("\n")[0])
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        flag, default = f"--{field.name.replace('_', '-')}", field.default
        if isinstance(default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=default)
        elif isinstance(default, tuple):
            parser.add_argument(flag, type=type(default[0]), nargs="+", default=default)
        else:
            parser.add_argument(flag, type=type(default), default=default)
    values = vars(parser.parse_args(arguments))
    if values.get("device", "cpu").startswith("cuda") and not torch.cuda.is_available():
        parser.error("--device cuda needs an NVIDIA GPU that PyTorch can use, and there is none here")
    if values.get("precision", "float32") not in (*PRECISIONS, "autocast"):
        parser.error(f"--precision must be one of: {', '.join(PRECISIONS)}, autocast")
    return kind(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    )


def command(
    name: str,
    kind: type[OptionsT],
    run: Callable[[OptionsT], dict[str, Any]],
    show: Callable[[dict[str, Any]], None],
    about: str | None,
    arguments: Sequence[str] | None = None,
) -> None:
    """Runs one benchmark from the command line: prints its tables, stores the result, prints it as a line of JSON.

    Raises:
        SystemExit: the benchmark cannot run, or its result has a non-empty list `failed` of sentences.
    """
    options = parse(kind, about, arguments)
    try:
        result = run(options)
    except CFCAMError as error:
        raise SystemExit(f"{name}: {error}") from error
    show(result)
    save(name, result)
    if result.get("failed"):
        raise SystemExit(f"{name}: {'; '.join(result['failed'])}")


def make_model(setup: Setup) -> nn.Module:
    """The model in eval mode on its device, in its precision and memory format."""
    torch.manual_seed(SEED)
    model = get_model(setup.model).eval().to(setup.device)
    example = make_images(dataclasses.replace(setup, precision="float32"), 1)
    precision = "float32" if setup.precision == "autocast" else setup.precision
    return prepared(model, example, precision=precision, channels_last=setup.channels_last)


def make_images(setup: Setup, batch: int) -> Tensor:
    """Normal random numbers (batch, 3, side, side), in the model's precision and memory format; always the same."""
    generator = torch.Generator().manual_seed(SEED)
    images = torch.randn(batch, 3, setup.side, setup.side, generator=generator)
    memory_format = torch.channels_last if setup.channels_last else torch.contiguous_format
    return images.to(setup.device, DTYPES.get(setup.precision, torch.float32), memory_format=memory_format)


def make_features(
    batch: int, channels: int, side: int, targets: int = 1, device: str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Activations (B, C, side, side) and gradients (B, targets, C, side, side).

    The channels of an image form `GROUPS` groups of similar ones. As in real layers, some channels are far from
    all others, and some are zero.
    """
    generator = torch.Generator().manual_seed(SEED)
    maps = 4 * torch.rand(batch, GROUPS, side, side, generator=generator)
    group = torch.randint(0, GROUPS, (batch, channels), generator=generator)
    spread = torch.where(torch.rand(batch, channels, generator=generator) < 0.1, 3.0, 0.15)[..., None, None]
    noise = torch.randn(batch, channels, side, side, generator=generator)
    activations = (maps[torch.arange(batch)[:, None], group] + spread * noise).relu()
    activations[torch.rand(batch, channels, generator=generator) < 0.05] = 0
    gradients = 1e-2 * torch.randn(batch, targets, channels, side, side, generator=generator)
    return activations.to(device), gradients.to(device)


def arithmetic(setup: Setup) -> contextlib.AbstractContextManager[Any]:
    """The context in which the model runs: bfloat16 autocast for the precision `autocast`, else none."""
    if setup.precision == "autocast":
        return torch.autocast(torch.device(setup.device).type, torch.bfloat16)
    return contextlib.nullcontext()


def interleaved(
    cases: Mapping[str, Case], repeats: int, warmup: int = 1, limit_s: float = float("inf"), least: int = 3
) -> dict[str, list[float]]:
    """Seconds of each case, measured `repeats` times.

    The cases take turns, so that a machine that gets slower slows all of them alike. The device is synchronised
    before the clock is read.

    Args:
        warmup: turns before the first one that counts.
        limit_s: after this many seconds no further turn starts, once there are `least` turns.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    begun = time.perf_counter()
    for turn in range(-warmup, repeats):
        if turn >= least and time.perf_counter() - begun > limit_s:
            break
        for name, case in cases.items():
            synchronize()
            start = time.perf_counter()
            case()
            synchronize()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def synchronize() -> None:
    """Waits for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def summary(seconds: Sequence[float], images: int) -> dict[str, float]:
    """Milliseconds per image: median, minimum and maximum."""
    per_image = [1000 * s / images for s in seconds]
    return {
        "ms_per_image": round(statistics.median(per_image), 4),
        "ms_min": round(min(per_image), 4),
        "ms_max": round(max(per_image), 4),
    }


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """Median over the turns of the ratio within a turn."""
    return round(statistics.median(n / d for n, d in zip(numerator, denominator, strict=True)), 3)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints a table: the first column is a name, the others are numbers."""
    table = Table()
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    for row in rows:
        table.add_row(*(escape(readable(value)) for value in row))
    console = Console(width=WIDTH)
    console.print(f"\n{title}", style="bold", highlight=False, markup=False)
    console.print(table)


def readable(value: object) -> str:
    """About three digits of a number; a dash for None."""
    if isinstance(value, float) and value != 0:
        return (
            f"{value:.{max(0, 2 - int(math.log10(abs(value))))}f}" if abs(value) >= 1e-3 else f"{value:.1e}"
        )
    return "-" if value is None else str(value)


def environment() -> dict[str, Any]:
    """Machine, versions and commit of a result; `load` is the system's load average over the last minute."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "commit": _commit(),
        "python": platform.python_version(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": {name: installed(name) for name in PACKAGES},
    }


def _commit() -> str:
    """Short commit; followed by `+` if tracked files, other than results, differ from it."""
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


def installed(package: str) -> str | None:
    """Version of a distribution; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def save(name: str, result: Mapping[str, Any]) -> None:
    """Writes bench/results/NAME.json, and prints the same as one line."""
    RESULTS.mkdir(exist_ok=True)
    record = {"benchmark": name, **result, "environment": environment()}
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=2, allow_nan=False) + "\n")
    print(json.dumps(record, allow_nan=False), flush=True)
