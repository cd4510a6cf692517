"""Parts of samples in, their rows out: decoding runs ahead of the model, pictures are written behind it.

The batches of a part are the same in every run, so the rows are the same as well.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cfcam_gpu._utils.checks import Check
from cfcam_gpu.dataset.execution.batch_explainer import BatchExplainer
from cfcam_gpu.dataset.execution.pool import Pool
from cfcam_gpu.dataset.execution.worker import Failure, OverlayStyle, View
from cfcam_gpu.dataset.sources.sample import Sample
from cfcam_gpu.dataset.store.atomic_files import NO_SPACE
from cfcam_gpu.dataset.store.schema import Row
from cfcam_gpu.errors import StoreError
from cfcam_gpu.images.encode import IMAGE_FORMATS


@dataclass(frozen=True)
class Work:
    """A part to explain: its samples, and by position the rows that stay as they are."""

    part: int
    samples: list[Sample]
    kept: dict[int, Row] = field(default_factory=dict)

    def positions(self) -> list[int]:
        return [i for i in range(len(self.samples)) if i not in self.kept]


@dataclass(frozen=True)
class Pictures:
    """Where and how overlays are written; `in_folders`: one folder per part, so that none grows without bound."""

    out: Path
    temporary: Path
    style: OverlayStyle
    in_folders: bool

    def name(self, part: int, sample: Sample) -> str:
        return overlay_name(self.style.kind, self.in_folders, part, sample)


def overlay_name(kind: str, in_folders: bool, part: int, sample: Sample) -> str:
    """Path of a sample's overlay below the output folder."""
    name = f"{sample.name}_cfcam{IMAGE_FORMATS[kind].extension}"
    return f"overlays/part-{part:05d}/{name}" if in_folders else name


@dataclass
class _Batch:
    """Samples of one part that are explained together, with what is under way for each."""

    work: Work
    positions: list[int]
    last: bool
    views: list[Future[Any]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    written: dict[int, Future[Any]] = field(default_factory=dict)


class Pipeline:
    """Explains parts one after the other.

    Args:
        explainer: warmed up.
        pool: decodes and writes.
        ahead: samples that may be decoded, or have pictures being written, beyond a batch.
        pictures: None: no pictures.
        check: called often, while waiting and while a batch is explained; raises to end the run.
    """

    def __init__(
        self,
        explainer: BatchExplainer,
        pool: Pool,
        batch_size: int,
        ahead: int,
        pictures: Pictures | None,
        check: Check,
    ) -> None:
        self.explainer = explainer
        self.pool = pool
        self.batch_size = batch_size
        self.batches_ahead = max(1, -(-ahead // batch_size))
        self.pictures = pictures
        self.check = check

    def __call__(
        self, works: Iterable[Work], on_row: Callable[[Row], None]
    ) -> Iterator[tuple[int, list[Row]]]:
        """Yields each part's number and rows, in order, once all its rows and pictures are there.

        Raises:
            StoreError: the disk is full.
            CFCAMError: what concerns the whole run (see `BatchExplainer`).
        """
        rows: list[Row] = []
        for batch in self._finished(works):
            for row in batch.rows:
                on_row(row)
            rows += batch.rows
            if batch.last:
                yield batch.work.part, _merged(batch.work, rows)
                rows = []

    def _finished(self, works: Iterable[Work]) -> Iterator[_Batch]:
        """Batches with their rows and pictures; a few that are explained wait for their pictures."""
        behind: deque[_Batch] = deque()
        for batch in self._decoding(works):
            self._explain(batch)
            behind.append(batch)
            while len(behind) > self.batches_ahead or (behind and _is_written(behind[0])):
                yield self._written(behind.popleft())
        while behind:
            yield self._written(behind.popleft())

    def _decoding(self, works: Iterable[Work]) -> Iterator[_Batch]:
        """Batches whose images are being decoded, the next ones as well."""
        coming = self._batches(works)
        ahead: deque[_Batch] = deque()
        while True:
            while len(ahead) <= self.batches_ahead and (batch := next(coming, None)) is not None:
                for position in batch.positions:
                    sample = batch.work.samples[position]
                    mask = sample.mask if self.explainer.with_masks else None
                    preprocess = self.explainer.loaded.preprocess
                    batch.views.append(self.pool.submit("view", sample.uri, preprocess, mask))
                ahead.append(batch)
            if not ahead:
                return
            yield ahead.popleft()

    def _batches(self, works: Iterable[Work]) -> Iterator[_Batch]:
        for work in works:
            positions = work.positions()
            for start in range(0, max(len(positions), 1), self.batch_size):
                stop = start + self.batch_size
                yield _Batch(work, positions[start:stop], stop >= len(positions))

    def _explain(self, batch: _Batch) -> None:
        samples = [batch.work.samples[position] for position in batch.positions]
        views = [self._wait(future) for future in batch.views]
        batch.views = []
        good = [i for i, view in enumerate(views) if isinstance(view, View)]
        found = self.explainer.rows([views[i] for i in good], [samples[i] for i in good], self.check)
        explained = dict(zip(good, found, strict=True))
        for i, (sample, view) in enumerate(zip(samples, views, strict=True)):
            told = self._seen(view) | explained[i] if i in explained else _failed(view, "decode")
            row: Row = {"sample_id": sample.sample_id, "uri": sample.uri, "label": sample.label, **told}
            batch.rows.append(row)
            if self.pictures is not None and row["status"] == "ok":
                batch.written[i] = self._write(self.pictures, batch.work.part, sample, row)

    def _seen(self, view: View) -> Row:
        box = self.explainer.loaded.preprocess.visible_box(view.width, view.height)
        return {"width": view.width, "height": view.height, "box": list(box), "decoding": view.decoding}

    def _write(self, pictures: Pictures, part: int, sample: Sample, row: Row) -> Future[Any]:
        row["overlay"] = pictures.name(part, sample)
        preprocess = self.explainer.loaded.preprocess
        place = (pictures.out, row["overlay"], pictures.temporary, pictures.style)
        return self.pool.submit("overlay", sample.uri, preprocess, row["grid"], *place)

    def _written(self, batch: _Batch) -> _Batch:
        for i, future in batch.written.items():
            result = self._wait(future)
            if isinstance(result, Failure):
                self._unwritten(batch.rows[i], result)
        return batch

    def _unwritten(self, row: Row, failure: Failure) -> None:
        assert self.pictures is not None
        path = self.pictures.out / str(row["overlay"])
        if failure.code in NO_SPACE:
            raise StoreError(
                f"cannot write {path}: {failure.message}; what is done so far is kept, the same command resumes"
            )
        row |= _failed(failure, "write")
        row |= {"message": f"cannot write {path}: {failure.message}", "overlay": None}

    def _wait(self, future: Future[Any]) -> Any:
        while True:
            self.check()
            try:
                return future.result(timeout=0.2)
            except FutureTimeoutError:
                continue


def _is_written(batch: _Batch) -> bool:
    return all(future.done() for future in batch.written.values())


def _failed(failure: Failure, stage: str) -> Row:
    """Columns of a failure; `stage` where its worker could not tell."""
    return {
        "status": "error",
        "stage": failure.stage or stage,
        "error_type": failure.error_type,
        "message": failure.message,
    }


def _merged(work: Work, rows: list[Row]) -> list[Row]:
    """The part's rows in its order: the new ones, and those kept."""
    fresh = iter(rows)
    return [work.kept[i] if i in work.kept else next(fresh) for i in range(len(work.samples))]
