"""Computes the tables of scale.md from bench/results/: ten million images on 8, 64 and 512 GPUs.

    python -m bench.scale [--check]

Every input is a measured figure, named with its results file and key, or is marked as an assumption.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.common import RESULTS
from bench.pages import rewrite, table

PAGE = Path(__file__).parent / "scale.md"
IMAGES, GPUS = 10_000_000, (8, 64, 512)

#: Images/s of one GPU. Assumptions, not measurements.
ASSUMED = (100, 500, 2000)

#: Name -> results file, path of keys in it, unit, meaning.
INPUTS: dict[str, tuple[str, str, str, str]] = {
    "jpeg": ("store", "pictures.jpeg_bytes", "bytes", "an image, 500x375 JPEG"),
    "view": ("store", "pictures.view.cpu_ms", "ms of a core", "reading and decoding it to the model's view"),
    "png_ms": ("store", "pictures.png.cpu_ms", "ms of a core", "its overlay as PNG, decoding included"),
    "png": ("store", "pictures.png.bytes", "bytes", "that overlay"),
    "jpeg_ms": ("store", "pictures.jpeg.cpu_ms", "ms of a core", "its overlay as JPEG, decoding included"),
    "overlay": ("store", "pictures.jpeg.bytes", "bytes", "that overlay"),
    "webp_ms": ("store", "pictures.webp.cpu_ms", "ms of a core", "its overlay as WebP, decoding included"),
    "webp": ("store", "pictures.webp.bytes", "bytes", "that overlay"),
    "list": ("store", "plan.list_us", "µs of a core", "finding a sample in a folder"),
    "plan": ("store", "plan.write_us", "µs of a core", "planning a sample"),
    "read_plan": ("store", "plan.read_us", "µs of a core", "comparing a sample with a stored plan"),
    "plan_bytes": ("store", "plan.bytes_per_sample", "bytes", "a sample in the plan"),
    "plan_memory": ("listing", "steps.plan.memory_mb", "MB", "memory of planning ten million samples"),
    "resume_memory": ("listing", "steps.resume.memory_mb", "MB", "memory of resuming a run of ten million"),
}  # fmt: skip
PART_SIZES = (256, 1024, 4096)
for _size in PART_SIZES:
    INPUTS |= {
        f"row_{_size}": ("store", f"part_sizes.{_size}.bytes_per_row", "bytes", f"a row, {_size} a part"),
        f"commit_{_size}": ("store", f"part_sizes.{_size}.commit.ms", "ms", f"storing a part of {_size}"),
        f"send_{_size}": (
            "store",
            f"part_sizes.{_size}.send.cpu_ms",
            "ms of a core",
            "its rows to another process",
        ),
        f"scan_{_size}": ("store", f"part_sizes.{_size}.scan.cpu_ms", "ms of a core", "reading its status"),
    }

Results = Mapping[str, Mapping[str, Any]]


#: Measured figures by name (see `INPUTS`).
Inputs = Mapping[str, float]


def read_results(folder: Path = RESULTS) -> Results:
    """The results files that the page uses, by name.

    Raises:
        SystemExit: one is missing.
    """
    results = {}
    for name in dict.fromkeys([*(file for file, *_ in INPUTS.values()), "dataset"]):
        path = folder / f"{name}.json"
        if not path.exists():
            raise SystemExit(f"{path} is missing; run: python -m bench.{name}")
        results[name] = json.loads(path.read_text())
    return results


def inputs_of(results: Results) -> Inputs:
    """The measured figures by name."""
    return {name: _find(results[file], key) for name, (file, key, _, _) in INPUTS.items()}


def _find(result: Any, key: str) -> float:
    for part in key.split("."):
        result = result[part]
    return float(result)


def tables(results: Results) -> dict[str, str]:
    """The page's tables by name, as Markdown."""
    inputs = inputs_of(results)
    return {
        "inputs": _inputs(inputs),
        "storage": _storage(inputs),
        "rates": _rates(inputs),
        "parts": _parts(inputs),
        "writers": _writers(inputs),
        "start": _start(inputs),
        "here": _here(results["dataset"]),
    }


def _inputs(inputs: Inputs) -> str:
    return table(
        ("measured", "figure", "file", "key"),
        (
            (about, f"{inputs[name]:,g} {unit}", f"`results/{file}.json`", f"`{key}`")
            for name, (file, key, unit, about) in INPUTS.items()
        ),
    )


def _storage(inputs: Inputs) -> str:
    kinds = {
        "images to read": "jpeg", "plan": "plan_bytes", "rows, parts of 256": "row_256",
        "overlays, JPEG": "overlay", "overlays, PNG": "png", "overlays, WebP": "webp",
    }  # fmt: skip
    return table(
        ("what", "bytes an image", "ten million images"),
        ((what, f"{inputs[name]:,.0f}", _bytes(IMAGES * inputs[name])) for what, name in kinds.items()),
    )


def _rates(inputs: Inputs) -> str:
    lines = []
    for gpus in GPUS:
        for rate in ASSUMED:
            total = gpus * rate
            lines.append((
                gpus, f"{rate:,}", f"{total:,}", _time(IMAGES / total),
                _bytes(total * inputs["jpeg"]) + "/s", _bytes(total * inputs["row_256"]) + "/s",
                _cores(rate * inputs["view"]), _cores(rate * (inputs["view"] + inputs["jpeg_ms"])),
                _bytes(total * inputs["overlay"]) + "/s",
            ))  # fmt: skip
    head = (
        "GPUs", "*images/s a GPU*", "images/s", "time", "reading", "rows", "cores a GPU, no overlays",
        "cores a GPU, JPEG overlays", "overlays",
    )  # fmt: skip
    return table(head, lines)


def _parts(inputs: Inputs) -> str:
    lines = []
    for size in PART_SIZES:
        count = math.ceil(IMAGES / size)
        scan = count * inputs[f"scan_{size}"] / 1000
        lines.append((
            f"{size:,}", f"{count:,}", _bytes(size * inputs[f"row_{size}"]), _time(scan),
            *(_time(size / rate) for rate in ASSUMED), f"{1000 * size / inputs[f'commit_{size}']:,.0f}",
        ))  # fmt: skip
    times = (f"one at *{rate:,} images/s*" for rate in ASSUMED)
    return table(("part size", "parts", "file", "resuming", *times, "images/s one writer stores"), lines)


def _writers(inputs: Inputs) -> str:
    lines = []
    for gpus in GPUS:
        for rate in ASSUMED:
            need = [gpus * rate * _driver(inputs, size) / 1000 / size for size in PART_SIZES]
            lines.append((gpus, f"{rate:,}", *(f"{math.ceil(one):,}" for one in need)))
    return table(("GPUs", "*images/s a GPU*", *(f"parts of {size:,}" for size in PART_SIZES)), lines)


def _driver(inputs: Inputs, size: int) -> float:
    """Milliseconds that a Ray driver needs for a part: receiving its rows, and storing them."""
    return inputs[f"send_{size}"] + inputs[f"commit_{size}"]


def _start(inputs: Inputs) -> str:
    names = {
        "finding the samples in folders": "list",
        "storing the plan": "plan",
        "comparing with the stored plan, on resuming": "read_plan",
    }
    lines = [
        (what, f"{inputs[name]:g} µs", _time(IMAGES * inputs[name] / 1e6)) for what, name in names.items()
    ]
    lines += [
        ("memory of storing the plan", "", _bytes(1e6 * inputs["plan_memory"])),
        ("memory of comparing, and counting what is finished", "", _bytes(1e6 * inputs["resume_memory"])),
    ]
    return table(("once, in each process", "a sample", "ten million"), lines)


def _here(dataset: Mapping[str, Any]) -> str:
    """Time for ten million images on the machine that measured, at the rates of results/dataset.json."""
    lines = [
        (
            model,
            overlays,
            f"{rate['images_per_s']:g}",
            _time(IMAGES / rate["images_per_s"]),
            f"`rates.{model}.{overlays}`",
        )
        for model, kinds in dataset["rates"].items()
        for overlays, rate in kinds.items()
    ]
    return table(("model", "overlays", "images/s", "ten million", "key in `results/dataset.json`"), lines)


def _cores(milliseconds: float) -> str:
    return f"{milliseconds / 1000:,.1f}"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"


def _time(seconds: float) -> str:
    for unit, most, size in (("s", 120.0, 1.0), ("min", 7200.0, 60.0), ("h", 172_800.0, 3600.0)):
        if seconds < most:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 86_400:.3g} days"


if __name__ == "__main__":
    rewrite(PAGE, tables(read_results()), "bench.scale", __doc__)
