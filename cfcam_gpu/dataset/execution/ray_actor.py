"""An actor of a distributed run: a process of a Ray cluster that holds one model and explains parts."""

from __future__ import annotations

import logging
import os
import socket
import sys
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch

from cfcam_gpu._utils.checks import never_ends
from cfcam_gpu._utils.device import resolve_device
from cfcam_gpu.dataset.execution.batch_explainer import BatchExplainer
from cfcam_gpu.dataset.execution.local import make_pipeline, opened_explainer
from cfcam_gpu.dataset.execution.parts import OverlayFiles, PendingPart
from cfcam_gpu.dataset.execution.pool import Pool, make_pool
from cfcam_gpu.dataset.options import RunOptions
from cfcam_gpu.dataset.store.fingerprint import about
from cfcam_gpu.dataset.store.journal import Journals
from cfcam_gpu.dataset.store.schema import Row
from cfcam_gpu.errors import StoreError
from cfcam_gpu.models import LoadedModel

#: Parts that an actor has at a time: while the model finishes one, the images of the next one are decoded.
PARTS_AT_ONCE = 2

#: An actor's answer for a part: its rows, and the warnings that were logged meanwhile.
Answer = tuple[list[Row], list[str]]


@dataclass(frozen=True)
class ActorSetup:
    """What an actor needs to start.

    Attributes:
        working_folder: relative paths are below this folder.
        threads: PyTorch's threads; None: its default.
        make: makes the explainer, from the arguments of `BatchExplainer`.
    """

    model: str | Callable[[], LoadedModel]
    options: RunOptions
    working_folder: str
    threads: int | None
    make: Callable[..., BatchExplainer] = BatchExplainer


class ExplainerActor:
    """Holds one model and explains parts; Ray calls its methods, each in a thread of its own.

    Args:
        path: entries of the driver's `sys.path`; those missing here are added.
    """

    def __init__(self, path: list[str]) -> None:
        sys.path.extend(entry for entry in path if entry not in sys.path)
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.warnings = _Warnings()
        self.stack = ExitStack()
        self.pool: Pool | None = None

    def start(self, setup: ActorSetup) -> dict[str, Any]:
        """Loads the model and warms it up. Returns the content of run.json. Raises CFCAMError."""
        self.options = options = setup.options
        _change_folder(setup.working_folder)
        logging.getLogger("cfcam_gpu").addHandler(self.warnings)
        if setup.threads:
            torch.set_num_threads(setup.threads)
        device = resolve_device(options.device)
        opening = opened_explainer(setup.model, options, device, setup.make)
        self.explainer, weights = self.stack.enter_context(opening)
        self.pool = make_pool(options.workers, options.sample_timeout)
        return about(self.explainer, weights, options)

    def explain(self, part: PendingPart, overlays: OverlayFiles | None, journals: Journals) -> Answer:
        """Explains a part, as far as no actor before this one has. Raises CFCAMError."""
        assert self.pool is not None
        if not journals.store.hidden_folder.is_dir():
            raise StoreError(_missing_folder("output folder", str(journals.store.out)))
        if overlays is not None:
            overlays = replace(overlays, temporary=overlays.temporary / self.name)
            overlays.temporary.mkdir(exist_ok=True)
        pipeline = make_pipeline(self.explainer, self.pool, self.options, overlays, never_ends)
        # Failed rows of an earlier run lie beside those of an actor that died; with retry_failed both are redone.
        ahead = journals.rows(part.number, part.samples)
        rest = part.with_rows({i: row for i, row in ahead.items() if self.options.keeps(row["status"])})
        ((_, rows),) = pipeline([rest], _ignore, journals)
        return rows, self.warnings.take()

    def close(self) -> None:
        """Ends the worker processes; calls of `explain` that still run never return."""
        if self.pool is not None:
            self.pool.close()


class _Warnings(logging.Handler):
    """Keeps the warnings that are logged until the next answer takes them."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def take(self) -> list[str]:
        lines, self.lines = self.lines, []
        return lines


def _ignore(_row: Row) -> None:
    """The driver learns of rows when their part is done."""


def _change_folder(folder: str) -> None:
    try:
        os.chdir(folder)
    except OSError as error:
        raise StoreError(_missing_folder("working folder", folder)) from error


def _missing_folder(kind: str, folder: str) -> str:
    return (
        f"the {kind} {folder} is not there on {socket.gethostname()}; all machines of the cluster must see "
        "it, and the images, under the same path"
    )
