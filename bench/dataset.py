"""How fast is a dataset run, compared with the model's forward passes alone? Does its memory grow?

    python -m bench.dataset [--images 2000] [--small 500] [--models efficientnet-lite0 torchvision:resnet50@none]

Generates JPEGs of 500×375 pixels in a temporary folder; one in 50 is damaged. For each model one process
explains them, without and with overlays. Before and after each run the same process times the model's forward
passes alone, on a batch that is in memory. Peak memory is measured in two further processes, one that
explains few images and one that explains all. Prints a table, then one line of JSON, which it also stores in
bench/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from bench.common import save
from cfcam_gpu.dataset import explain_dataset
from cfcam_gpu.models import load_model

MODELS = ("efficientnet-lite0", "torchvision:resnet50@none")
SIZE = (500, 375)
BATCH = 16


def generate(folder: Path, count: int) -> None:
    """`count` JPEGs that compress as photos do; every 50th is cut off, so that it cannot be decoded."""
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(SIZE, Image.Resampling.BICUBIC), np.int16)
        noisy = np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)
        path = folder / f"{i:05}.jpg"
        Image.fromarray(noisy).save(path, quality=90)
        if i % 50 == 49:
            path.write_bytes(path.read_bytes()[:2000])


def forward_rate(model: torch.nn.Module, size: tuple[int, int], seconds: float) -> float:
    """Images/s of forward passes alone, without gradients, on a batch that is in memory."""
    images, done = torch.randn(BATCH, 3, *size), 0
    with torch.inference_mode():
        model(images)
        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            model(images)
            done += BATCH
    return done / (time.perf_counter() - start)


def measure(spec: str, folder: Path, out: Path, workers: int | None, seconds: float) -> dict[str, Any]:
    """Images/s of one model in this process, by the kind of overlays."""
    loaded = load_model(spec)
    settings: dict[str, Any] = {"device": "cpu", "batch_size": BATCH, "max_errors": "5%"}
    if workers is not None:
        settings["workers"] = workers
    rates: dict[str, Any] = {}
    forward = [forward_rate(loaded.model, loaded.preprocess.size, seconds)]
    for overlays in ("none", "png"):
        start = time.perf_counter()
        summary = explain_dataset([str(folder)], out / overlays, loaded, overlays=overlays, **settings)
        total = time.perf_counter() - start
        forward.append(forward_rate(loaded.model, loaded.preprocess.size, seconds))
        forward_only = statistics.mean(forward[-2:])
        rates[overlays] = {
            "images_per_s": round(summary.now / summary.seconds, 2),
            "with_setup": round(summary.now / total, 2),
            "forward_only": round(forward_only, 2),
            "of_forward": round(summary.now / summary.seconds / forward_only, 3),
            "ok": summary.tally.ok,
            "failed": summary.tally.skipped,
        }
    return rates


def peak_memory(spec: str, folder: Path, count: int, out: Path) -> int:
    """Peak resident memory in MiB of `cfcam explain` over the first `count` images, without its workers."""
    manifest = out / f"{count}.csv"
    files = sorted(folder.iterdir())[:count]
    manifest.write_text("\n".join(["path", *map(str, files)]))
    command = ["explain", str(manifest), "--out", str(out / f"memory{count}"), "--model", spec]
    options = ["--overlays", "none", "--device", "cpu", "--max-errors", "5%", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "cfcam_gpu", *command, *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 3):
        raise SystemExit(f"cfcam explain ended with status {process.returncode}")
    return usage.ru_maxrss // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument(
        "--small", type=int, default=500, help="images of the first memory measurement; 0: none"
    )
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each forward-only measurement")
    parser.add_argument("--measure", metavar="MODEL", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        with tempfile.TemporaryDirectory() as out:
            rates = measure(options.measure, options.folder, Path(out), options.workers, options.seconds)
        print(json.dumps(rates))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "images")
        folder.mkdir()
        generate(folder, options.images)
        report(options, folder, Path(temporary))


def report(options: argparse.Namespace, folder: Path, out: Path) -> None:
    """Measures every model, prints the table and stores the result."""
    table = Table("model", "overlays", "images/s", "forward only", "share", "failed")
    rates: dict[str, Any] = {}
    for spec in options.models:
        command = [sys.executable, "-m", "bench.dataset", "--measure", spec, "--folder", str(folder)]
        command += ["--seconds", str(options.seconds)]
        command += [] if options.workers is None else ["--workers", str(options.workers)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rates[spec] = json.loads(done.stdout.splitlines()[-1])
        for overlays, row in rates[spec].items():
            keys = ("images_per_s", "forward_only", "of_forward", "failed")
            table.add_row(spec, overlays, *(str(row[key]) for key in keys))
    Console().print(table)
    result: dict[str, Any] = {"images": options.images, "size": list(SIZE), "batch": BATCH, "rates": rates}
    if options.small:
        counts = (options.small, options.images)
        peaks = {count: peak_memory(options.models[0], folder, count, out) for count in counts}
        growth = peaks[counts[1]] / peaks[counts[0]]
        result["memory"] = {"model": options.models[0], "peak_mib": peaks, "growth": round(growth, 3)}
        print(
            f"peak memory: {peaks[counts[0]]} MiB at {counts[0]}, {peaks[counts[1]]} MiB at {counts[1]} images"
        )
    save("dataset", result)


if __name__ == "__main__":
    main()
