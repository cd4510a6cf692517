"""Explain a dataset: what a run does from its inputs to the last part. Read this first.

samples -> plan (stored) -> parts that are not done -> pipeline -> one file a part

Whatever ends a run, finished parts stay, and the same call does the rest.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cfcam_gpu.dataset.execution.local import Follow, Model, Parts, local_parts
from cfcam_gpu.dataset.execution.observer import Interrupted, Observer, Tally, watched_signals
from cfcam_gpu.dataset.execution.pipeline import Pictures, Work
from cfcam_gpu.dataset.execution.ray_driver import ray_parts
from cfcam_gpu.dataset.execution.worker import OverlayStyle
from cfcam_gpu.dataset.options import RunOptions
from cfcam_gpu.dataset.sources.find import find_samples
from cfcam_gpu.dataset.sources.sample import Sample
from cfcam_gpu.dataset.store.locks import claim, setup_lock
from cfcam_gpu.dataset.store.plan import Plan
from cfcam_gpu.dataset.store.resume import open_plan
from cfcam_gpu.dataset.store.schema import Row
from cfcam_gpu.dataset.store.store import Store
from cfcam_gpu.errors import TooManyErrors


@dataclass
class Summary:
    """What a run did.

    Attributes:
        tally: of all samples of this process's parts, done now or before.
        before: samples that were done before; now: done by this run.
        parts: this process's parts; others_left: parts of other processes that are not done.
    """

    out: Path
    tally: Tally
    parts: list[int]
    layer: str
    engine: str
    device: str
    before: int = 0
    now: int = 0
    seconds: float = 0.0
    others_left: int = 0

    @property
    def total(self) -> int:
        return self.before + self.now


def explain_dataset(
    inputs: Sequence[str] | Sequence[Sample],
    out: str | Path,
    model: Model = "efficientnet-lite0",
    options: RunOptions | None = None,
    *,
    observer: Observer | None = None,
    **settings: Any,
) -> Summary:
    """Explains a dataset into the folder `out`; `open_results(out)` reads it. The same call resumes a run.

    Every sample gets one row, also one that cannot be read, decoded, explained or written. Parts are
    written whole or not at all. Decoding and pictures are done in worker processes.

    Args:
        inputs: files, folders, glob patterns, manifests, tar shards …, or samples.
        out: folder of the results, made when missing.
        model: a specification (see `models`), what `load_model` gives, or a function that loads it. A
            distributed run takes a specification or an importable function.
        options: how to explain and to run; settings: fields of `RunOptions` that replace its.
        observer: told of every row.

    Raises:
        ConfigError: a setting out of range, before anything is read.
        InputError: inputs that do not exist, or an output folder that cannot be made.
        StoreError: `out` holds another run or is in use, or cannot be written.
        TooManyErrors: more samples failed than `max_errors`.
        BackendError: worker processes or actors that cannot run, or a device that is not there.
        Interrupted: SIGINT or SIGTERM; finished parts are stored.
        CFCAMError: whatever else concerns the whole run: model, layer, target, memory.
    """
    options = replace(options or RunOptions(), **settings)
    store, observer = Store(Path(out)), observer or Observer()
    opening = (ray_parts if options.distributed else local_parts)(model, options, observer)
    samples = samples_of(inputs, store.out)
    with opening as (parts, content):
        return carry_out(store, samples, parts, content, options, observer)


def samples_of(inputs: Sequence[str] | Sequence[Sample], out: Path) -> list[Sample]:
    """The samples of a run's inputs, in a new list. Raises InputError."""
    given = [item for item in inputs if isinstance(item, Sample)]
    return given or find_samples([str(item) for item in inputs], exclude=out)


def carry_out(
    store: Store,
    samples: list[Sample],
    parts: Parts,
    content: dict[str, Any],
    options: RunOptions,
    observer: Observer,
) -> Summary:
    """A run from its claim on the output folder to its last part; `content` is that of run.json.

    Empties `samples`: the plan on disk has them, and a million take memory.
    """
    with ExitStack() as stack:
        store.make_folder()
        with setup_lock(store.locks_folder):
            claimed = claim(stack, store.locks_folder, options.rank, options.world_size)
            store.clear_leftovers(claimed.rank, claimed.world_size)
            plan = open_plan(store, claimed, samples, options, content, observer)
            samples.clear()
        return _Run(store, plan, parts, options, observer)()


@dataclass
class _Run:
    """The parts of one process, from the first that is not done to the last."""

    store: Store
    plan: Plan
    parts: Parts
    options: RunOptions
    observer: Observer
    tally: Tally = field(default_factory=Tally)
    before: int = 0
    now: int = 0

    def __call__(self) -> Summary:
        options, store, start = self.options, self.store, time.perf_counter()
        mine = list(range(options.rank, self.plan.parts, options.world_size))
        self.total = sum(map(self.plan.count, mine))
        self.allowed = options.allowed_errors(self.total)
        with watched_signals() as self.stopped:
            redo = self._count_done(mine)
            self.observer.begin(self.total, replace(self.tally))
            done = store.finished_parts()
            todo = [part for part in mine if part not in done or part in redo]
            if todo:
                self._explain(todo, redo)
        left = len(set(range(self.plan.parts)) - set(mine) - store.finished_parts())
        seconds, by = time.perf_counter() - start, self.parts
        return Summary(
            store.out, self.tally, mine, by.layer, by.engine, by.device, self.before, self.now, seconds, left
        )

    def _count_done(self, mine: list[int]) -> set[int]:
        """Counts the rows that stay; gives the parts of which failed rows are redone."""
        redo: set[int] = set()
        done = self.store.finished_parts()
        for part in (part for part in mine if part in done):
            self.check()
            rows = self.store.read_rows(part, ["status", "blank"])
            good = [row for row in rows if row["status"] == "ok"]
            if self.options.retry_failed and len(good) < len(rows):
                redo.add(part)
                rows = good
            for row in rows:
                self.tally.add(row)
            self.before += len(rows)
        return redo

    def _explain(self, todo: list[int], redo: set[int]) -> None:
        temporary = self.store.temporary_folder(self.options.rank)
        works = (self._work(part, part in redo) for part in todo)
        new, pictures = self.total - self.before, self._pictures(temporary)
        try:
            with closing(self.parts(works, new, pictures, Follow(self._row, self.check))) as found:
                for part, rows in found:
                    self._commit(part, rows)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _work(self, part: int, redo: bool) -> Work:
        samples = self.plan.samples(part)
        if not redo:
            return Work(part, samples)
        rows = self.store.read_rows(part)
        return Work(part, samples, {i: row for i, row in enumerate(rows) if row["status"] == "ok"})

    def _pictures(self, temporary: Path) -> Pictures | None:
        if self.options.overlays == "none":
            return None
        style = OverlayStyle(self.options.overlays, self.options.cmap, self.options.alpha)
        stored = self.store.read_run() or {}
        return Pictures(self.store.out, temporary, style, bool(stored.get("overlay_folders")))

    def _row(self, row: Row) -> None:
        self.now += 1
        self.tally.add(row)
        self.observer.row(row)
        if self.tally.skipped > self.allowed:
            raise TooManyErrors(
                f"stopped: {self.tally.skipped} of {self.before + self.now} samples failed, more than the "
                f"{self.allowed} allowed; finished parts are kept, the same command with a higher "
                "--max-errors goes on"
            )

    def _commit(self, part: int, rows: list[Row]) -> None:
        """The pictures' names are made to last before the rows that tell of them."""
        overlays = (row.get("overlay") for row in rows)
        for folder in {(self.store.out / overlay).parent for overlay in overlays if overlay}:
            self.store.sync_folder(folder)
        self.store.write_part(part, rows, self.parts.grid, self.options.rank)

    def check(self) -> None:
        """Raises Interrupted after a signal."""
        self.observer.tick()
        number = self.stopped()
        if number is not None:
            raise Interrupted(number)
