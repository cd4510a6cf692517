"""How fast is a dataset run, compared with the model's forward passes alone? Does its memory grow?

    python -m bench.dataset [--images 2000] [--small 500] [--models efficientnet-lite0 torchvision:resnet50@none]
                            [--device cuda] [--batch 256]

Generates JPEGs of 500×375 pixels in a temporary folder; one in 50 is damaged. For each model one process explains
them, without overlays, with JPEGs and with PNGs. Before and after each run the same process times the model's forward
passes alone, on a batch that is in the device's memory. On the CPU that process keeps freed memory, as `cfcam
explain` does, for the runs and for the forward passes beside them. Peak memory is measured in two further processes,
one that explains few images and one that explains all. `cores` computes how many CPU cores keep a device busy that
makes these forward passes: those that decode, by the CPU time of decoding some of the images, and the main process,
by the result of `bench.host`. Prints a table, then one line of JSON, which it also stores in bench/results/.
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

from bench.common import RESULTS, save, synchronize
from cfcam_gpu._utils.allocator import keep_freed_memory
from cfcam_gpu._utils.device import resolve_device
from cfcam_gpu.dataset import explain_dataset
from cfcam_gpu.dataset.execution.worker import read_view
from cfcam_gpu.models import LoadedModel, load_model

MODELS = ("efficientnet-lite0", "torchvision:resnet50@none")
SIZE = (500, 375)
BATCH = 16

#: Images that are decoded to measure what one takes.
DECODED = 100


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


def forward_rate(loaded: LoadedModel, device: torch.device, batch: int, seconds: float) -> float:
    """Images/s of forward passes alone, without gradients, on a batch that is in the device's memory."""
    model, done = loaded.model.to(device), 0
    images = torch.randn(batch, loaded.preprocess.channels, *loaded.preprocess.size, device=device)
    with torch.inference_mode():
        model(images)
        synchronize()
        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            model(images)
            synchronize()
            done += batch
    return done / (time.perf_counter() - start)


def decoding_ms(folder: Path, loaded: LoadedModel) -> float:
    """Milliseconds of CPU time to decode an image to the model's view of it."""
    files = [path for i, path in enumerate(sorted(folder.iterdir())[:DECODED]) if i % 50 != 49]
    read_view(str(files[0]), loaded.preprocess)
    start = time.thread_time()
    for file in files:
        read_view(str(file), loaded.preprocess)
    return 1000 * (time.thread_time() - start) / len(files)


def cores(images_per_s: float, decode_ms: float, main_ms: float | None) -> dict[str, float]:
    """How many cores work all the time to feed a device that takes so many images a second.

    Args:
        decode_ms: CPU time to decode an image; main_ms: that of the main process for it, None: not measured.

    Example:
        >>> cores(1000, decode_ms=4.0, main_ms=0.1)
        {'decoding': 4.0, 'main process': 0.1}
    """
    needed = {"decoding": round(images_per_s * decode_ms / 1000, 3)}
    return needed if main_ms is None else {**needed, "main process": round(images_per_s * main_ms / 1000, 3)}


def main_process_ms() -> float | None:
    """The result of `bench.host`: CPU time of the main process for an image; None where there is none."""
    path = RESULTS / "host.json"
    return float(json.loads(path.read_text())["main_cpu_ms_per_image"]) if path.exists() else None


def measure(options: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Images/s of one model in this process, by the kind of overlays, and the cores that its device needs."""
    spec, folder, seconds = options.measure, options.folder, options.seconds
    loaded, device = load_model(spec), resolve_device(options.device)
    kept = device.type == "cpu" and keep_freed_memory()
    settings: dict[str, Any] = {
        "device": options.device,
        "batch_size": options.batch,
        "max_errors": "5%",
        "workers": options.workers,
    }
    rates: dict[str, Any] = {}
    forward = [forward_rate(loaded, device, options.batch, seconds)]
    for overlays in ("none", "jpeg", "png"):
        start = time.perf_counter()
        summary = explain_dataset([str(folder)], out / overlays, loaded, overlays=overlays, **settings)
        total = time.perf_counter() - start
        forward.append(forward_rate(loaded, device, options.batch, seconds))
        forward_only = statistics.mean(forward[-2:])
        rates[overlays] = {
            "images_per_s": round(summary.now / summary.seconds, 2),
            "with_setup": round(summary.now / total, 2),
            "forward_only": round(forward_only, 2),
            "of_forward": round(summary.now / summary.seconds / forward_only, 3),
            "ok": summary.tally.ok,
            "failed": summary.tally.skipped,
        }
    decode, main = decoding_ms(folder, loaded), main_process_ms()
    rate = statistics.mean(forward)
    return {
        "rates": rates,
        "freed_memory_kept": kept,
        "cores": {
            "decode_cpu_ms": round(decode, 3),
            "main_cpu_ms": main,
            "busy_cores": cores(rate, decode, main),
            "busy_cores_per_1000_images_per_s": cores(1000, decode, main),
        },
    }


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
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each forward-only measurement")
    parser.add_argument("--measure", metavar="MODEL", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        with tempfile.TemporaryDirectory() as out:
            print(json.dumps(measure(options, Path(out))))
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
    needed: dict[str, Any] = {}
    kept: dict[str, bool] = {}
    for spec in options.models:
        command = [sys.executable, "-m", "bench.dataset", "--measure", spec, "--folder", str(folder)]
        command += [
            "--seconds",
            str(options.seconds),
            "--device",
            options.device,
            "--batch",
            str(options.batch),
        ]
        command += [] if options.workers is None else ["--workers", str(options.workers)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        measured = json.loads(done.stdout.splitlines()[-1])
        rates[spec], needed[spec] = measured["rates"], measured["cores"]
        kept[spec] = measured["freed_memory_kept"]
        for overlays, row in rates[spec].items():
            keys = ("images_per_s", "forward_only", "of_forward", "failed")
            table.add_row(spec, overlays, *(str(row[key]) for key in keys))
    Console().print(table)
    for spec, figures in needed.items():
        for at, key in (("the forward passes' speed", ""), ("1000 images/s", "_per_1000_images_per_s")):
            counts = figures[f"busy_cores{key}"].items()
            print(f"{spec}: cores busy at {at}: {', '.join(f'{count:g} {name}' for name, count in counts)}")
    result: dict[str, Any] = {
        "images": options.images,
        "size": list(SIZE),
        "device": options.device,
        "batch": options.batch,
        "rates": rates,
        "freed_memory_kept": kept,
        "cores": needed,
    }
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
