"""What do rows, overlays, storing a part and resuming a run cost? The inputs of the arithmetic in scale.md.

    python -m bench.store [--parts 1000]

The rows have a 7×7 map of random values, which do not compress, and realistic ids and paths; the images have
500×375 pixels and compress as photos do. Bytes are file sizes. `cpu_ms` is the process's own CPU time; `ms` is the
median time by the clock, which includes waiting for the disk. Prints a table, then one line of JSON, which it
also stores in bench/results/.
"""

from __future__ import annotations

import argparse
import pickle
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.common import print_table, save
from bench.dataset import SIZE, generate
from cfcam_gpu.dataset.execution.worker import OverlayStyle, read_view, write_overlay
from cfcam_gpu.dataset.sources.find import listed_samples
from cfcam_gpu.dataset.sources.sample import Sample
from cfcam_gpu.dataset.store.schema import Row
from cfcam_gpu.dataset.store.store import Store
from cfcam_gpu.images.encode import IMAGE_FORMATS
from cfcam_gpu.images.preprocess import PUBLISHED_PREPROCESS

MAP_SHAPE = (7, 7)
PART_SIZES = (256, 1024, 4096)
ROWS_PER_SIZE = 40_960
PICTURES_TIMED = 60
FILES, PLANNED = 20_000, 200_000


def make_rows(count: int, first: int = 0) -> list[Row]:
    """Rows like those of a run over the folders of ImageNet."""
    rng = np.random.default_rng(first)
    maps, numbers = rng.random((count, *MAP_SHAPE), np.float32), rng.random((count, 4), np.float32).tolist()
    return [_row(first + i, grid, values) for i, (grid, values) in enumerate(zip(maps, numbers, strict=True))]


def _row(i: int, grid: np.ndarray, values: list[float]) -> Row:
    name = f"n{i // 1300:08}/n{i // 1300:08}_{i}.JPEG"
    return {
        "sample_id": name, "uri": f"/data/imagenet/train/{name}", "status": "ok",
        "target": i % 1000, "target_name": f"class {i % 1000}", "target_prob": values[0],
        "pred": i % 1000, "pred_name": f"class {i % 1000}", "prob": values[0], "n_clusters": i % 3,
        "noise_fraction": values[1], "blank": False, "grid": grid, "heatmap_max": values[2],
        "width": 500, "height": 375, "box": [0.0, 0.0, 500.0, 375.0],
    }  # fmt: skip


def timed(work: Callable[..., object], arguments: Iterable[tuple[Any, ...]]) -> dict[str, float]:
    """Milliseconds of a call, without making its arguments: `ms` by the clock, median; `cpu_ms` of CPU time, mean."""
    clock, cpu = [], []
    for call in arguments:
        start, start_cpu = time.perf_counter(), time.process_time()
        work(*call)
        clock.append(1000 * (time.perf_counter() - start))
        cpu.append(1000 * (time.process_time() - start_cpu))
    return {"ms": round(statistics.median(clock), 3), "cpu_ms": round(statistics.mean(cpu), 3)}


def parts(out: Path, size: int) -> dict[str, Any]:
    """Cost of storing parts of a size, of sending one between processes, and of reading what a resumed run reads."""
    numbers, store = range(ROWS_PER_SIZE // size), Store(out)
    costs: dict[str, Any] = {
        "commit": timed(store.write_part, ((i, make_rows(size, i * size), MAP_SHAPE) for i in numbers)),
        "send": timed(_sent, ((make_rows(size, i * size),) for i in numbers)),
        "scan": timed(store.read_rows, ((i, ["status", "blank"]) for i in numbers)),
    }
    total = sum(store.part_file(i).stat().st_size for i in numbers)
    shutil.rmtree(out)
    return {"bytes_per_row": round(total / ROWS_PER_SIZE, 1), **costs}


def _sent(rows: list[Row]) -> object:
    return pickle.loads(pickle.dumps(rows, 5))


def resume(out: Path, count: int, size: int = 256) -> dict[str, Any]:
    """Cost of what a resumed run reads of `count` finished parts: their names, and two columns of every row."""
    store = Store(out)
    store.write_part(0, make_rows(size), MAP_SHAPE)
    for i in range(1, count):
        shutil.copyfile(store.part_file(0), store.part_file(i))
    cpu, start = time.process_time(), time.perf_counter()
    for part in sorted(store.finished_parts()):
        store.read_rows(part, ["status", "blank"])
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {"parts": count, "part_size": size, "seconds": round(seconds, 3), "cpu_seconds": round(cpu, 3)}


def plan(out: Path) -> dict[str, Any]:
    """Per sample: microseconds of listing a folder, and of writing and reading a plan; and its bytes there."""
    folder = out / "listed"
    for i in range(FILES):
        path = folder / f"n{i // 1300:08}/{i}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    cpu = time.process_time()
    count = len(listed_samples([str(folder)]))
    listing = (time.process_time() - cpu) / count
    rows = make_rows(PLANNED)
    samples = [Sample(row["sample_id"], row["uri"], name=row["sample_id"][:-5]) for row in rows]
    store, cpu = Store(out), time.process_time()
    written = store.write_plan(samples, 256)
    writing, cpu = (time.process_time() - cpu) / PLANNED, time.process_time()
    uris = {row["sample_id"]: row["uri"] for row in written.columns("sample_id", "uri")}
    reading = (time.process_time() - cpu) / len(uris)
    return {
        "list_us": round(1e6 * listing, 2),
        "write_us": round(1e6 * writing, 2),
        "read_us": round(1e6 * reading, 2),
        "bytes_per_sample": round(store.plan_file.stat().st_size / PLANNED, 1),
    }


def pictures(folder: Path) -> dict[str, Any]:
    """Bytes and milliseconds of an overlay by its kind, from reading the image to the written file; and of the view."""
    source, temporary = folder / "photos", folder / "temporary"
    source.mkdir()
    temporary.mkdir()
    generate(source, PICTURES_TIMED)
    whole = [path for path in sorted(source.iterdir()) if path.stat().st_size > 2000]
    saliency_map = np.asarray(
        Image.fromarray(np.eye(3, dtype=np.float32)).resize(MAP_SHAPE, Image.Resampling.BICUBIC)
    ).clip(0)
    costs: dict[str, Any] = {
        "size": list(SIZE),
        "jpeg_bytes": round(statistics.mean(path.stat().st_size for path in whole)),
        "view": timed(read_view, ((str(path), PUBLISHED_PREPROCESS) for path in whole)),
    }
    for kind, (extension, _) in IMAGE_FORMATS.items():
        place = (folder / kind, temporary, OverlayStyle(kind, "inferno", 0.4))
        names = ((str(path), f"{path.stem}{extension}") for path in whole)
        took = timed(_write, ((uri, saliency_map, name, *place) for uri, name in names))
        size = statistics.mean(path.stat().st_size for path in place[0].iterdir())
        costs[kind] = {**took, "bytes": round(size)}
    return costs


def _write(
    uri: str, saliency_map: np.ndarray, name: str, out: Path, temporary: Path, style: OverlayStyle
) -> None:
    write_overlay(uri, PUBLISHED_PREPROCESS, saliency_map, out, name, temporary, style)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--parts", type=int, default=1000, help="finished parts of the resumed run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        sizes = {str(size): parts(out / str(size), size) for size in PART_SIZES}
        result = {
            "grid": list(MAP_SHAPE),
            "part_sizes": sizes,
            "resume": resume(out / "resume", options.parts),
            "plan": plan(out / "plan"),
            "pictures": pictures(out),
        }
    lines = [
        (
            size,
            costs["bytes_per_row"],
            *(costs[name][unit] for name in ("commit", "send", "scan") for unit in costs[name]),
        )
        for size, costs in sizes.items()
    ]
    names = [f"{name} {unit}" for name in ("commit", "send", "scan") for unit in ("ms", "CPU ms")]
    print_table("parts", ("samples", "bytes/row", *names), lines)
    save("store", result)


if __name__ == "__main__":
    main()
