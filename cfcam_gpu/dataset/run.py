"""Explains a dataset: what a run does, from its inputs to the last part. Read this first.

inputs -> samples -> plan (stored) -> parts that are not done -> rows of each part (stored)

A run that is ended at any point keeps its finished parts, and of the others the rows that were written ahead (see
`store.journal`); the same call does the rest.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
from torch import nn

from cfcam_gpu._utils.messages import plural
from cfcam_gpu.dataset.accuracy import write_summary
from cfcam_gpu.dataset.execution.local import Model, local_part_explainer
from cfcam_gpu.dataset.execution.observer import Interrupted, Observer, Tally, watched_signals
from cfcam_gpu.dataset.execution.parts import OverlayFiles, PartExplainer, PendingPart
from cfcam_gpu.dataset.execution.ray_driver import ray_part_explainer
from cfcam_gpu.dataset.execution.worker import OverlayStyle
from cfcam_gpu.dataset.given import as_given, with_settings
from cfcam_gpu.dataset.options import RunOptions
from cfcam_gpu.dataset.run_summary import RunSummary
from cfcam_gpu.dataset.sources.columns import MaskedSamples
from cfcam_gpu.dataset.sources.find import listed_samples
from cfcam_gpu.dataset.sources.folder_labels import chosen_labels, with_folder_labels
from cfcam_gpu.dataset.sources.names import leads_out
from cfcam_gpu.dataset.sources.sample import Sample, masked_urls, without_credentials
from cfcam_gpu.dataset.sources.spool import MaskedSpool, SpooledSamples
from cfcam_gpu.dataset.store.journal import Journals, run_token
from cfcam_gpu.dataset.store.locks import claim, setup_lock
from cfcam_gpu.dataset.store.output import opened_output
from cfcam_gpu.dataset.store.plan import Plan
from cfcam_gpu.dataset.store.resume import open_plan
from cfcam_gpu.dataset.store.schema import Row, has_several_targets, others_of
from cfcam_gpu.dataset.store.store import REMEDY, Store
from cfcam_gpu.errors import InputError, StoreError, TooManyErrors


def explain_dataset(
    inputs: Any,
    out: str | Path,
    model: Model | nn.Module = "efficientnet-lite0",
    options: RunOptions | None = None,
    *,
    preprocess: Any = None,
    class_names: Sequence[str] | None = None,
    observer: Observer | None = None,
    **settings: Any,
) -> RunSummary:
    """Explains a dataset into the folder `out`; `open_results(out)` reads it. The same call resumes a run.

    Every sample gets one row, also a sample that cannot be read, decoded or explained, or whose overlay cannot
    be written. A part is stored when all its rows are complete; until then its rows are written ahead, so that a
    run that is killed loses about a second's work and the batches that were not finished. Worker processes decode
    the images and write the overlays.

    Args:
        inputs: files, folders, glob patterns, manifests or tar shards; or samples. An object with a length that makes
            its samples whenever it is iterated is never held in memory as a whole; a `ColumnSource` resumes faster.
            Or a data set in memory: a list of images, a torch `Dataset` or `DataLoader` of (image, label), a
            `datasets.Dataset` (see `sources.object_kinds.object_samples`), which this process reads.
        out: folder of the results, made if it does not exist; or its URL at an object store: `s3://`, `gs://`, or
            `memory://` of this process. Then the run works in a folder of this machine's cache (`CFCAM_CACHE`), and
            what is finished is uploaded meanwhile.
        model: a specification (see `cfcam_gpu.models`), the result of `load_model`, or a function that
            returns one; or a module. A distributed run takes a specification or an importable function.
        preprocess: of a module: a `Preprocess`, or the evaluation transform of its training (see
            `cfcam_gpu.models.given.as_preprocess`).
        class_names: of a module: one for each output; None: those of the data set, if they are as many.
        options: how to explain and to run; settings: fields of `RunOptions` that replace those of `options`.
        observer: is told how the run goes.

    Raises:
        ConfigError: a setting is unknown or out of range; raised before anything is read.
        InputError: an input does not exist, or the output folder cannot be made.
        StoreError: `out` holds another run, is in use, or cannot be written; its server cannot be reached.
        TooManyErrors: more samples failed than `max_errors` allows.
        BackendError: worker processes or actors do not start, or there is no such device.
        MissingPackageError: a package that the options need is not installed.
        Interrupted: SIGINT or SIGTERM arrived; finished samples are stored.
        CFCAMError: another error that concerns the whole run: model, layer, target or memory.

    Example:
        >>> import tempfile
        >>> import numpy as np, torch
        >>> from PIL import Image
        >>> from cfcam_gpu.dataset import open_results
        >>> from cfcam_gpu.images.preprocess import Preprocess
        >>> from cfcam_gpu.models import LoadedModel
        >>> network = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 2)
        ... )
        >>> preprocess = Preprocess((8, 8), (0.5,) * 3, (0.5,) * 3)
        >>> model = LoadedModel(network, preprocess, ("cat", "dog"), "example", "random")
        >>> folder = Path(tempfile.mkdtemp())
        >>> Image.new("RGB", (20, 10), "red").save(folder / "a.png")
        >>> summary = explain_dataset([str(folder)], folder / "out", model, device="cpu", workers=0)
        >>> summary.tally.ok, len(open_results(folder / "out"))
        (1, 1)
    """
    options = with_settings(options or RunOptions(), settings)
    observer = observer or Observer()
    given = as_given(inputs, model, options, preprocess, class_names)
    options = given.options
    opening = _part_explainer(given.model, options, observer)
    with opened_output(out, options, observer.note) as (folder, mirror):
        store = Store(folder, mirror)
        samples = samples_of(given.inputs, store.name, options.path_column)
        with opening(len(samples)) as (part_explainer, run_content):
            samples = _labelled(store, samples, run_content, options, observer)
            summary = carry_out(store, samples, part_explainer, run_content, options, observer)
            if not summary.others_left:
                write_summary(store)
    return summary


def _labelled(
    store: Store,
    samples: Collection[Sample],
    run_content: dict[str, Any],
    options: RunOptions,
    observer: Observer,
) -> Collection[Sample]:
    """The samples with their labels; writes into `run_content` where these come from.

    A stored run keeps its choice. Raises StoreError for another one, InputError as `chosen_labels` and
    `Store.make_folder`.
    """
    store.make_folder()
    stored = None if options.overwrite else store.read_run()
    labels, note = options.labels, None
    if stored is None:
        labels, note = chosen_labels(labels, samples, run_content.get("class_names"))
    else:
        before = stored.get("labels", "given")
        if labels not in ("auto", before):
            raise StoreError(
                f"{store.name} holds another run: labels was {before!r}, now {labels!r}; {REMEDY}"
            )
        labels = before
    if note is not None:
        observer.note(note)
    run_content["labels"] = labels
    if labels == "folders" and isinstance(samples, (list, SpooledSamples)):
        return with_folder_labels(samples)
    return samples


def _part_explainer(
    model: Model, options: RunOptions, observer: Observer
) -> Callable[[int], AbstractContextManager[tuple[PartExplainer, dict[str, Any]]]]:
    """A function of the number of samples: what explains the parts, and the content of run.json.

    The model is loaded on entering.
    """
    if options.distributed:
        opening = ray_part_explainer(model, options, observer)
        return lambda _samples: opening
    return local_part_explainer(model, options)


def samples_of(
    inputs: Sequence[str] | Collection[Sample], out: str | Path, path_column: str | None = None
) -> Collection[Sample]:
    """The samples of a run's inputs; nothing below `out` is an input.

    Args:
        inputs: a single path counts as a list of one; see `explain_dataset`.

    Raises:
        InputError: an input does not exist, holds no images, or is no path.
    """
    if isinstance(inputs, SpooledSamples):  # files of a torchvision folder
        return MaskedSpool(inputs)
    if _is_source(inputs):
        return MaskedSamples(cast(Collection[Sample], inputs))
    items: list[Any] = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
    kinds = set(map(type, items))
    are_samples = [issubclass(kind, Sample) for kind in kinds]
    others = {kind for kind in kinds if not issubclass(kind, (Sample, str, os.PathLike))}
    if others or (any(are_samples) and not all(are_samples)):
        names = ", ".join(sorted(kind.__name__ for kind in others or kinds))
        raise InputError(f"inputs must be paths, or samples and nothing else, got {names}")
    if any(are_samples):
        return list(map(without_credentials, items))
    return listed_samples([str(item) for item in items], exclude=out, path_column=path_column)


def _is_source(inputs: object) -> bool:
    """Whether samples are made as they are asked for, so that they need not be in memory."""
    if isinstance(inputs, (str, os.PathLike, list, tuple)) or not isinstance(inputs, Collection):
        return False
    return isinstance(next(iter(inputs), None), Sample)


def carry_out(
    store: Store,
    samples: Collection[Sample],
    part_explainer: PartExplainer,
    run_content: dict[str, Any],
    options: RunOptions,
    observer: Observer,
) -> RunSummary:
    """Claims the output folder, stores the plan or resumes the stored one, and explains this process's parts.

    Args:
        samples: those in a list or a `Spool` are removed, since a million take memory or space on the disk, and the
            plan has them.
        run_content: the content of run.json.

    Raises:
        StoreError, TooManyErrors, Interrupted, CFCAMError: as `explain_dataset`.
    """
    with ExitStack() as stack:
        store.make_folder()
        with setup_lock(store.locks_folder):
            claimed = claim(stack, store.locks_folder, options.rank, options.world_size)
            store.clear_leftovers(claimed.rank, claimed.world_size)
            plan = open_plan(store, claimed, samples, options, run_content, observer)
            if isinstance(samples, (list, SpooledSamples)):
                samples.clear()
        store.mirror.written(store.plan_file)
        store.mirror.written(store.run_file)
        store.mirror.wait()  # without these the parts are nobody's
        return _Run(store, plan, part_explainer, options, observer).explain_parts()


@dataclass
class _Run:
    """The parts of one process, from the first that is not done to the last."""

    store: Store
    plan: Plan
    part_explainer: PartExplainer
    options: RunOptions
    observer: Observer
    tally: Tally = field(default_factory=Tally)
    before: int = 0
    now: int = 0

    def __post_init__(self) -> None:
        self.parts = list(range(self.options.rank, self.plan.parts, self.options.world_size))
        self.total = sum(map(self.plan.count, self.parts))
        several = has_several_targets(self.store.read_run() or {})
        self.one_line_each = self.store.has_line_per_sample and not several
        self.journals = Journals(self.store, self.part_explainer.map_shape, run_token(self.store))
        self.allowed_errors = self.options.allowed_errors(self.total)

    def explain_parts(self) -> RunSummary:
        start = time.perf_counter()
        with watched_signals() as self.arrived_signal:
            finished = self.store.finished_parts() & set(self.parts)
            ahead = self._rows_ahead(finished)
            to_redo = self._count_finished(sorted(finished - ahead.keys()))
            self._count_before([row for rows in ahead.values() for row in rows.values()])
            self.observer.begin(self.total, replace(self.tally))
            self._send_what_is_left(finished)
            to_do = [part for part in self.parts if part not in finished or part in to_redo or part in ahead]
            if to_do:
                self._check_errors()
                self._explain(
                    self._pending_part(part, ahead.pop(part, None), redo=part in to_redo) for part in to_do
                )
            self.observer.end()
        return self._summary(time.perf_counter() - start)

    def _rows_ahead(self, finished: set[int]) -> dict[int, dict[int, Row]]:
        """For each part that was being explained when a run ended: the rows that stay, by their position."""
        ahead: dict[int, dict[int, Row]] = {}
        for part in sorted(self.journals.parts() & set(self.parts)):
            self._check()
            rows = self.journals.rows(part, self.plan.samples(part))
            if part in finished:  # failed samples were being redone
                stored = dict(enumerate(self.store.read_rows(part)))
                better = {
                    i: row for i, row in rows.items() if row["status"] == "ok" and stored[i]["status"] != "ok"
                }
                rows = {**stored, **better} if better else {}
            if rows:
                ahead[part] = {i: row for i, row in rows.items() if self._stays(row)}
            else:
                self.journals.remove(part)
        return ahead

    def _stays(self, row: Row) -> bool:
        return self.options.keeps(row["status"])

    def _count_before(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self.tally.add(row)
        self.before += len(rows)

    def _count_finished(self, finished: list[int]) -> set[int]:
        """Counts the stored rows that stay. Returns the parts in which failed rows are to be redone."""
        to_redo: set[int] = set()
        for part in finished:
            self._check()
            if self.one_line_each:
                lines = self.store.read_part(part, ["status", "blank"])
                if self._count_lines(lines):
                    to_redo.add(part)
                continue
            rows = self.store.read_rows(part, ["status", "blank"])
            staying = [row for row in rows if self._stays(row)]
            if len(staying) < len(rows):
                to_redo.add(part)
            self._count_before(staying)
        return to_redo

    def _count_lines(self, lines: pa.Table) -> bool:
        """Counts the lines that stay, of a part with one for each sample; whether failed ones are to be redone."""
        import pyarrow.compute as pc

        good = pc.equal(lines["status"], "ok")
        ok = pc.sum(good).as_py() or 0
        blank = pc.sum(pc.and_(good, pc.fill_null(lines["blank"], fill_value=False))).as_py() or 0
        failed = len(lines) - ok
        redone = failed if self.options.retry_failed else 0
        self.tally.ok += ok
        self.tally.blank += blank
        self.tally.skipped += failed - redone
        self.before += len(lines) - redone
        return redone > 0

    def _pending_part(self, part: int, ahead: dict[int, Row] | None, *, redo: bool) -> PendingPart:
        stored = dict(enumerate(self.store.read_rows(part))) if redo else {}
        kept = {i: row for i, row in stored.items() if self._stays(row)} if ahead is None else ahead
        samples = self.plan.samples(part)
        return PendingPart(part, samples, kept, masked_urls(samples))

    def _explain(self, parts: Iterator[PendingPart]) -> None:
        temporary = self.store.make_temporary_folder(self.options.rank)
        rows_of_parts = self.part_explainer.explain(
            parts, self._overlay_files(temporary), self.journals, self._count_row, self._check
        )
        try:
            with closing(rows_of_parts):
                for part, rows in rows_of_parts:
                    self._store_part(part, rows)
        finally:
            self.store.remove_temporary_folder(self.options.rank)

    def _overlay_files(self, temporary: Path) -> OverlayFiles | None:
        if self.options.overlays == "none":
            return None
        style = OverlayStyle(self.options.overlays, self.options.cmap, self.options.alpha)
        stored = self.store.read_run() or {}
        return OverlayFiles(self.store.out, temporary, style, bool(stored.get("overlay_folders")))

    def _count_row(self, row: Row) -> None:
        """Counts a new row. Raises TooManyErrors."""
        self.now += 1
        self.tally.add(row)
        self.observer.row(row)
        self._check_errors()

    def _check_errors(self) -> None:
        """Raises TooManyErrors."""
        if self.tally.skipped > self.allowed_errors:
            raise TooManyErrors(
                f"stopped: {self.tally.skipped} of {plural(self.before + self.now, 'sample')} failed, more than "
                f"the {self.allowed_errors} allowed; what is finished is kept: the same command with a higher "
                "--max-errors goes on, with --retry-failed it does the failed ones again"
            )

    def _store_part(self, part: int, rows: list[Row]) -> None:
        overlays = self._overlays(rows)
        # Their names must survive a power failure before the rows that mention them do.
        for folder in {overlay.parent for overlay in overlays}:
            if folder.is_dir():
                self.store.sync_folder(folder)
        self.store.write_part(part, rows, self.part_explainer.map_shape, self.options.rank)
        self.journals.remove(part)
        self._send(part, overlays)

    def _overlays(self, rows: Sequence[Row]) -> list[Path]:
        """The overlays of rows; earlier ones of a folder at a URL are there only.

        Rows may come from a URL, where others can write: a name that is no overlay's is left out.
        """
        names = (one.get("overlay") for row in rows for one in (row, *others_of(row)))
        return [self.store.out / name for name in names if name and "_cfcam." in name and not leads_out(name)]

    def _send(self, part: int, overlays: list[Path]) -> None:
        """A part is finished, and has these overlays."""
        self.store.mirror.pictures(overlays)
        self.store.mirror.written(self.store.part_file(part))

    def _send_what_is_left(self, finished: set[int]) -> None:
        """Sends the parts that an earlier run finished and did not send."""
        for part in sorted(finished):
            if self.store.mirror.lacks(self.store.part_file(part)):
                self._send(part, self._overlays(self.store.read_rows(part)))

    def _check(self) -> None:
        """Raises Interrupted once a signal has arrived."""
        self.observer.step(self.part_explainer.steps)
        self.observer.tick()
        self.store.mirror.check()
        number = self.arrived_signal()
        if number is not None:
            raise Interrupted(number)

    def _summary(self, seconds: float) -> RunSummary:
        others = set(range(self.plan.parts)) - set(self.parts)
        return RunSummary(
            out=self.store.out,
            url=self.store.mirror.name,
            tally=self.tally,
            parts=self.parts,
            layer=self.part_explainer.layer,
            engine=self.part_explainer.engine,
            device=self.part_explainer.device,
            before=self.before,
            now=self.now,
            seconds=seconds,
            others_left=len(others - self.store.finished_parts()),
        )
