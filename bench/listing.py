"""What do the plan and the resumption of ten million samples cost in time and memory? No file exists.

    python -m bench.listing [--samples 10000000]

The samples are made as they are asked for (see `explain_dataset`), with ids, paths and names of 20 to 45 characters.
All parts but the last are finished: links to one part, whose rows count and are not compared. `listing` only makes the
samples. `manifest` lists the rows of a CSV file, and `folder` the files of folders of 100,000 each, whose names a
stand-in for `os.scandir` gives: what a run does with such inputs before it compares them. `plan` stores the samples.
`resume` is what the same call does before its first image: it compares all samples with the plan and counts the rows of
all finished parts; `compare` is the first of these alone. `objects` is `resume` of samples that come as an object each,
not as columns; `items_plan` and `items` store and resume a run of a torch data set that lists its labels. `shuffled`
compares samples in another order of which one is new. `unfinished` is `resume` where one part in ten is left, whose
samples are then asked for. Memory is the growth of the process's peak over what it had with the packages imported;
every step has a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from bench.common import print_table, save
from bench.store import MAP_SHAPE, make_rows
from cfcam_gpu.dataset.execution.observer import Observer, Tally
from cfcam_gpu.dataset.execution.parts import FinishedParts, PendingPart
from cfcam_gpu.dataset.options import RunOptions
from cfcam_gpu.dataset.run import carry_out
from cfcam_gpu.dataset.sources.columns import AT_ONCE, Columns, ColumnSource
from cfcam_gpu.dataset.sources.find import listed_samples
from cfcam_gpu.dataset.sources.object_kinds import object_samples
from cfcam_gpu.dataset.sources.sample import Sample
from cfcam_gpu.dataset.store.resume import _new_samples
from cfcam_gpu.dataset.store.store import Store

PART_SIZE = 1024

#: Files in a folder, of `folder`.
IN_A_FOLDER = 100_000

#: Of this many parts one is left, in `unfinished`.
LEFT = 10

RUN = {
    "fingerprint": {"method": "gradcam"},
    "shard_size": PART_SIZE,
    "grid": list(MAP_SHAPE),
    "size": [224, 224],
}


class Generated(ColumnSource):
    """Samples like the files of ImageNet, made as they are asked for.

    Args:
        step: the order: every `step`-th sample, then those between them.
    """

    def __init__(self, count: int, step: int = 1) -> None:
        self.count, self.step = count, step

    def __len__(self) -> int:
        return self.count

    def pieces(self, *names: str) -> Iterator[Columns]:
        numbers = (i for first in range(self.step) for i in range(first, self.count, self.step))
        while some := list(islice(numbers, AT_ONCE)):
            stems = [f"{(folder := f'n{i // 1300:08}')}/{folder}_{i}" for i in some]
            yield {name: _MADE[name](stems) for name in names}


#: Field of the samples -> its values, from the names.
_MADE: dict[str, Callable[[list[str]], list[Any]]] = {
    "sample_id": lambda stems: [f"{stem}.JPEG" for stem in stems],
    "uri": lambda stems: [f"/data/imagenet/train/{stem}.JPEG" for stem in stems],
    "name": lambda stems: stems,
    **dict.fromkeys(("label", "target", "mask"), lambda stems: [None] * len(stems)),
}


class Objects(Collection[Sample]):
    """The samples of a `Generated` that gives no columns, but an object for each."""

    def __init__(self, samples: Generated) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __contains__(self, sample: object) -> bool:
        return sample in self.samples

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)


class Items(Dataset[Any]):
    """Small pictures with labels, made as they are asked for."""

    def __init__(self, count: int) -> None:
        self.targets = torch.arange(count, dtype=torch.int32) % 1000

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[npt.NDArray[np.uint8], int]:
        return np.full((4, 4, 3), index % 256, np.uint8), int(self.targets[index])


class Ended(Exception):
    """Ends a run before its first image."""


class Nothing:
    """Stands for a model: it is asked for nothing but the shape of its maps."""

    map_shape = MAP_SHAPE
    layer = engine = device = "none"
    steps = 0

    def explain(self, parts: Iterable[PendingPart], *_: Any) -> FinishedParts:
        assert sum(len(part.new_positions()) for part in parts) > PART_SIZE
        raise Ended


class Begun(Observer):
    def begin(self, total: int, done: Tally) -> None:
        assert total - done.ok <= PART_SIZE
        raise Ended


def listing(_out: Path, count: int) -> None:
    for _ in Generated(count):
        pass


def manifest(out: Path, count: int) -> None:
    assert len(listed_samples([str(out / "list.csv")])) == count


def write_manifest(out: Path, count: int) -> None:
    with (out / "list.csv").open("w") as file:
        file.write("path,label\n")
        for piece in Generated(count).pieces("sample_id"):
            file.writelines(f"{name},{name[:9]}\n" for name in piece["sample_id"])


class Entry(NamedTuple):
    """What `os.scandir` gives, of a file or folder that does not exist."""

    name: str
    folder: bool

    def is_dir(self) -> bool:
        return self.folder

    def is_symlink(self) -> bool:
        return False


def folder(out: Path, count: int) -> None:
    @contextmanager
    def scandir(path: Path) -> Iterator[Iterator[Entry]]:
        if path == out:
            yield (Entry(f"{start}", folder=True) for start in range(0, count, IN_A_FOLDER))
        else:
            numbers = range(int(path.name), min(int(path.name) + IN_A_FOLDER, count))
            yield (Entry(f"n{i // 1300:08}_{i}.JPEG", folder=False) for i in numbers)

    with patch("os.scandir", scandir):
        assert len(listed_samples([str(out)])) == count


def plan(out: Path, count: int) -> None:
    store_plan(out, Generated(count))


def items_plan(out: Path, count: int) -> None:
    store_plan(out / "items", object_samples(Items(count)).samples)


def store_plan(out: Path, samples: Collection[Sample]) -> None:
    """A plan, of which all parts but the last are finished."""
    store = Store(out)
    store.make_folder()
    written = store.write_plan(samples, PART_SIZE)
    store.write_run({**RUN, "overlay_folders": True})
    store.write_part(0, make_rows(PART_SIZE), MAP_SHAPE)
    for part in range(1, written.parts - 1):
        os.link(store.part_file(0), store.part_file(part))


def compare(out: Path, count: int) -> None:
    store = Store(out)
    assert _new_samples(store, store.read_plan(), Generated(count), Observer()) == []


def shuffled(out: Path, count: int) -> None:
    store = Store(out)
    assert len(_new_samples(store, store.read_plan(), Generated(count + 1, 7), Observer())) == 1


def resume(out: Path, count: int) -> None:
    carry_on(out, Generated(count), Begun())


def objects(out: Path, count: int) -> None:
    carry_on(out, Objects(Generated(count)), Begun())


def items(out: Path, count: int) -> None:
    carry_on(out / "items", object_samples(Items(count)).samples, Begun())


def unfinished(out: Path, count: int) -> None:
    store = Store(out)
    for part in range(1, store.read_plan().parts, LEFT):
        store.part_file(part).unlink(missing_ok=True)
    carry_on(out, Generated(count), Observer())


def carry_on(out: Path, samples: Collection[Sample], observer: Observer) -> None:
    """A run up to where it explains its first image, or has asked for all that are left."""
    try:
        carry_out(Store(out), samples, Nothing(), RUN, RunOptions(overlays="none"), observer)
    except Ended:
        return
    raise AssertionError("the run did not begin")


STEPS: dict[str, Callable[[Path, int], None]] = {
    "listing": listing, "manifest": manifest, "folder": folder, "plan": plan, "compare": compare, "resume": resume,
    "objects": objects, "items_plan": items_plan, "items": items, "shuffled": shuffled, "unfinished": unfinished,
}  # fmt: skip

#: What a step needs, and is not measured.
PREPARED: dict[str, Callable[[Path, int], None]] = {"manifest": write_manifest}


def step(name: str, out: Path, count: int) -> dict[str, float]:
    """Seconds and megabytes of a step in this process."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, cpu = time.perf_counter(), time.process_time()
    STEPS[name](out, count)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "samples_per_second": round(count / seconds),
        "samples_per_cpu_second": round(count / cpu),
        "memory_mb": round((peak - before) / 1024, 1),
        "process_peak_mb": round(peak / 1024, 1),
    }


def measure(count: int, steps: Iterable[str]) -> dict[str, dict[str, float]]:
    """Every step, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        results = {}
        for name in steps:
            if name in PREPARED:
                PREPARED[name](Path(folder), count)
            command = (
                sys.executable,
                "-m",
                "bench.listing",
                "--samples",
                str(count),
                "--step",
                name,
                "--out",
                folder,
            )
            results[name] = json.loads(
                subprocess.run(command, check=True, capture_output=True, text=True).stdout
            )
        return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--samples", type=int, default=10_000_000)
    parser.add_argument("--steps", default=",".join(STEPS), help="the first of those that need it is plan")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(step(options.step, options.out, options.samples)))
        return
    results = measure(options.samples, options.steps.split(","))
    print_table(
        f"{options.samples:,} samples",
        ["step", *next(iter(results.values()))],
        [[name, *values.values()] for name, values in results.items()],
    )
    save("listing", {"samples": options.samples, "part_size": PART_SIZE, "steps": results})


if __name__ == "__main__":
    main()
