"""Explains parts: images are decoded ahead of the model, and overlays are written behind it.

The batches of a part are the same in every run, so its rows are the same as well.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from typing import Any

from cfcam_gpu._utils.checks import Check
from cfcam_gpu._utils.messages import printable
from cfcam_gpu._utils.places.masking import remember
from cfcam_gpu.dataset.execution.batch_explainer import BatchExplainer
from cfcam_gpu.dataset.execution.gpu_decoder import GpuDecoder
from cfcam_gpu.dataset.execution.parts import FinishedParts, OverlayFiles, PendingPart
from cfcam_gpu.dataset.execution.pool import Pool
from cfcam_gpu.dataset.execution.results import Results
from cfcam_gpu.dataset.execution.shared_memory import Block, Slot
from cfcam_gpu.dataset.execution.worker import Failure, PlacedView
from cfcam_gpu.dataset.sources.sample import Sample, revealed_uri
from cfcam_gpu.dataset.store.atomic_files import NO_SPACE
from cfcam_gpu.dataset.store.journal import Journals
from cfcam_gpu.dataset.store.schema import Row, others_of
from cfcam_gpu.errors import StoreError
from cfcam_gpu.images.read_options import ReadOptions
from cfcam_gpu.images.views import FileView, View

log = logging.getLogger("cfcam_gpu")

#: Seconds between two calls of `check` while the pipeline waits for a worker.
_CHECK_INTERVAL = 0.2

_DEFAULT_READ_OPTIONS = ReadOptions()


@dataclass
class _Batch:
    """Samples of one part that are explained together.

    Attributes:
        positions: of the samples in their part.
        is_last: whether it is the last batch of its part.
        views: the images being decoded; None before they are submitted, and once they are explained.
        block: shared memory with their pixels; None: there is none, or the rows are made.
        begun: gives the rows of the images that could be decoded, once these are being explained; with the views of
            all images.
        rows: empty until they are explained.
        overlays: the overlays being written, by the sample's index in the batch and the position of its class.
        is_complete: whether its rows are final, and handed to the journal.
    """

    part: PendingPart
    positions: list[int]
    is_last: bool
    views: Results | None = None
    block: Block | None = None
    begun: tuple[list[Any], Callable[[], list[Row]]] | None = None
    rows: list[Row] = field(default_factory=list)
    overlays: dict[tuple[int, int], Future[Any]] = field(default_factory=dict)
    is_complete: bool = False

    @property
    def samples(self) -> list[Sample]:
        return [self.part.samples[position] for position in self.positions]

    def overlays_done(self) -> bool:
        return all(future.done() for future in self.overlays.values())


class Pipeline:
    """Explains parts one after the other.

    Args:
        explainer: warmed up.
        pool: decodes images and writes overlays.
        batch_size: images of a batch.
        ahead: images that may be decoded in advance of a batch; also, explained images whose overlays may still
            be unwritten.
        overlays: None: no overlays are written.
        check: called often, while waiting and while a batch is explained; what it raises ends the run.
        decode: how images are decoded, a key of `DECODERS`.
        gpu_decoder: decodes the files that the pool leaves to the GPU; None for a decoder that leaves none.
        read_options: how image files are read, for the model and for the overlays.
    """

    def __init__(
        self,
        explainer: BatchExplainer,
        pool: Pool,
        batch_size: int,
        ahead: int,
        overlays: OverlayFiles | None,
        check: Check,
        decode: str = "full",
        gpu_decoder: GpuDecoder | None = None,
        read_options: ReadOptions = _DEFAULT_READ_OPTIONS,
    ) -> None:
        self.explainer = explainer
        self.pool = pool
        self.batch_size = batch_size
        self.batches_ahead = max(1, -(-ahead // batch_size))
        self.overlays = overlays
        self.check = check
        self.decode = decode
        self.gpu_decoder = gpu_decoder
        self.read_options = read_options
        self._warned = False
        self._begun: deque[_Batch] = deque()
        self._explained: deque[_Batch] = deque()

    def __call__(
        self, parts: Iterable[PendingPart], on_row: Callable[[Row], None], journals: Journals
    ) -> FinishedParts:
        """Yields each part's number and rows, in order, as soon as its rows and overlays are complete.

        Args:
            on_row: called with every new row.
            journals: where finished rows are written ahead of their part.

        Raises:
            StoreError: the disk is full.
            CFCAMError: an error that concerns the whole run (see `BatchExplainer`).
        """
        rows: list[Row] = []
        with journals.writer() as self._journal:
            for batch in self._finished_batches(parts):
                for row in batch.rows:
                    on_row(row)
                rows += batch.rows
                if batch.is_last:
                    yield batch.part.number, batch.part.all_rows(rows)
                    self._journal.forget(batch.part.number)
                    rows = []

    def _finished_batches(self, parts: Iterable[PendingPart]) -> Iterator[_Batch]:
        """Batches whose rows and overlays are complete; a few explained ones wait for their overlays.

        The rows of a batch are made once the device has the next one to work on.
        """
        explained = self._explained
        for batch in self._decoded_batches(parts):
            self._begin(batch)
            self._begun.append(batch)
            self._explain_begun(self.explainer.ahead)
            while len(explained) > self.batches_ahead or (explained and explained[0].overlays_done()):
                yield self._finish(explained.popleft())
        self._explain_begun(0)
        while explained:
            yield self._finish(explained.popleft())

    def _check(self) -> None:
        """Calls `check`, after the journal got what is finished: a batch may take minutes."""
        for batch in self._explained:
            if batch.overlays_done():
                self._complete(batch)
        self._journal.tick()
        self.check()

    def _decoded_batches(self, parts: Iterable[PendingPart]) -> Iterator[_Batch]:
        """Batches whose images are being decoded, as are those of the next few batches."""
        batches = self._batches(parts)
        decoding: deque[_Batch] = deque()
        while True:
            while len(decoding) <= self.batches_ahead and (batch := next(batches, None)) is not None:
                self._decode(batch)
                decoding.append(batch)
            if not decoding:
                return
            yield decoding.popleft()

    def _decode(self, batch: _Batch) -> None:
        """Has the images of a batch decoded, where possible into shared memory."""
        samples, preprocess = batch.samples, self.explainer.loaded.preprocess
        if samples:
            batch.block = self.pool.lease((self.batch_size, *preprocess.size, preprocess.channels))
        block = batch.block
        slots = [None if block is None else block.slot(i) for i in range(len(samples))]
        batch.views = self.pool.submit_all(
            "view",
            [
                self._view_arguments(sample, self.decode, slot)
                for sample, slot in zip(samples, slots, strict=True)
            ],
        )

    def _view_arguments(self, sample: Sample, decode: str, slot: Slot | None = None) -> tuple[Any, ...]:
        """Those of `worker.read_view`."""
        mask = sample.mask if self.explainer.needs_masks else None
        preprocess = self.explainer.loaded.preprocess
        mask = None if mask is None else revealed_uri(mask)
        return revealed_uri(sample.uri), preprocess, mask, decode, self.read_options, slot

    def _views(self, batch: _Batch) -> list[Any]:
        """Waits for the images of a batch: for each its view, a failure, or the file for the GPU to decode."""
        assert batch.views is not None
        if not batch.views.wait(0):
            self._explain_begun(0)  # the device will have nothing else to do
        while not batch.views.wait(_CHECK_INTERVAL):
            self._check()
        views, batch.views = batch.views.values(), None
        if batch.block is not None:
            return [
                View(pixels, *view) if isinstance(view, PlacedView) else view
                for view, pixels in zip(views, batch.block.pixels, strict=False)
            ]
        return views

    def _batches(self, parts: Iterable[PendingPart]) -> Iterator[_Batch]:
        """At least one batch of each part: a part without new samples has an empty one."""
        for part in parts:
            remember(part.urls)
            positions = part.new_positions()
            for start in range(0, max(len(positions), 1), self.batch_size):
                stop = start + self.batch_size
                yield _Batch(part, positions[start:stop], is_last=stop >= len(positions))

    def _begin(self, batch: _Batch) -> None:
        """Waits for the images of a batch, and has them explained."""
        self._check()
        views = self._views(batch)
        if self.gpu_decoder is not None:
            self._decode_on_gpu(self.gpu_decoder, views, batch.samples)
        decoded = _decoded(views)
        samples = batch.samples
        begun = self.explainer.begin([views[i] for i in decoded], [samples[i] for i in decoded], self._check)
        batch.begun = views, begun

    def _explain_begun(self, left: int) -> None:
        """Makes the rows of all begun batches but the last few."""
        while len(self._begun) > left:
            batch = self._begun.popleft()
            self._explain(batch)
            self._explained.append(batch)

    def _explain(self, batch: _Batch) -> None:
        """Waits for the explanations of a batch, makes its rows, and has the overlays written."""
        assert batch.begun is not None
        samples, (views, begun) = batch.samples, batch.begun
        decoded, rows = _decoded(views), begun()
        batch.begun = None
        if batch.block is not None:
            self.pool.release(batch.block)
            batch.block = None
        explained = dict(zip(decoded, rows, strict=True))
        for i, (sample, view) in enumerate(zip(samples, views, strict=True)):
            if isinstance(view, View) and view.warning:
                self._warn(sample, view.warning)
            columns = self._view_columns(view) | explained[i] if i in explained else _failed(view, "decode")
            row: Row = {"sample_id": sample.sample_id, "uri": sample.uri, "label": sample.label, **columns}
            batch.rows.append(row)
            if self.overlays is not None and row["status"] == "ok":
                for k, one in enumerate((row, *others_of(row))):
                    batch.overlays[i, k] = self._write_overlay(self.overlays, batch.part.number, sample, one)

    def _warn(self, sample: Sample, warning: str) -> None:
        """Tells the first image's warning; the rows hold all of them."""
        if not self._warned:
            self._warned = True
            log.warning(
                "%s: %s (the column decoding names every such image)", printable(sample.sample_id), warning
            )

    def _decode_on_gpu(self, decoder: GpuDecoder, views: list[Any], samples: list[Sample]) -> None:
        """Puts a view in the place of each file; the pool decodes the files that the GPU cannot."""
        files = {i: view for i, view in enumerate(views) if isinstance(view, FileView)}
        decoded = dict(zip(files, decoder.views(list(files.values())), strict=True))
        views_of_pool = {
            i: self.pool.submit("view", *self._view_arguments(samples[i], "full"))
            for i, view in decoded.items()
            if view is None
        }
        for i, view in decoded.items():
            views[i] = self._result(views_of_pool[i]) if view is None else view

    def _view_columns(self, view: View) -> Row:
        box = self.explainer.loaded.preprocess.visible_box(view.width, view.height)
        return {"width": view.width, "height": view.height, "box": list(box), "decoding": view.decoding}

    def _write_overlay(self, overlays: OverlayFiles, part: int, sample: Sample, row: Row) -> Future[Any]:
        target = row["target"] if self.explainer.explains_several else None
        row["overlay"] = overlays.name(part, sample, target)
        preprocess = self.explainer.loaded.preprocess
        destination = (overlays.out, row["overlay"], overlays.temporary, overlays.style)
        return self.pool.submit(
            "overlay", revealed_uri(sample.uri), preprocess, row["grid"], *destination, self.read_options
        )

    def _finish(self, batch: _Batch) -> _Batch:
        """Waits for the overlays of a batch, and completes it."""
        for future in batch.overlays.values():
            self._result(future)
        self._complete(batch)
        return batch

    def _complete(self, batch: _Batch) -> None:
        """The rows of a batch whose overlays are done; one whose overlay cannot be written becomes an error row."""
        if batch.is_complete:
            return
        batch.is_complete = True
        for (i, k), future in batch.overlays.items():
            if isinstance(result := future.result(), Failure):
                self._overlay_failed(batch.rows[i], k, result)
        self._journal.add(batch.part.number, batch.positions, batch.rows)

    def _overlay_failed(self, row: Row, k: int, failure: Failure) -> None:
        assert self.overlays is not None
        one = (row, *others_of(row))[k]
        path = self.overlays.out / str(one["overlay"])
        if failure.code in NO_SPACE:
            raise StoreError(
                f"cannot write {path}: {failure.message}; what is done so far is kept, the same command resumes"
            )
        one["overlay"] = None
        row |= _failed(failure, "write")
        row["message"] = f"cannot write {path}: {failure.message}"

    def _result(self, future: Future[Any]) -> Any:
        while not future.done():
            self._check()
            with contextlib.suppress(FutureTimeoutError):
                future.result(timeout=_CHECK_INTERVAL)
        return future.result()


def _decoded(views: list[Any]) -> list[int]:
    """The positions of the images that could be decoded."""
    return [i for i, view in enumerate(views) if isinstance(view, View)]


def _failed(failure: Failure, stage: str) -> Row:
    """The columns of a failure; `stage` is for a worker that could not tell it."""
    return {
        "status": "error",
        "stage": failure.stage or stage,
        "error_type": failure.error_type,
        "message": failure.message,
    }
