"""What an actor of a distributed run does: hold one model and explain parts."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch

from cfcam_gpu._utils.checks import Check, never_ends
from cfcam_gpu._utils.device import resolve_device
from cfcam_gpu.dataset.execution.batch_explainer import BatchExplainer
from cfcam_gpu.dataset.execution.local import make_pipeline, opened
from cfcam_gpu.dataset.execution.pipeline import Pictures, Work
from cfcam_gpu.dataset.execution.pool import Pool, make_pool
from cfcam_gpu.dataset.execution.worker import View
from cfcam_gpu.dataset.options import RunOptions
from cfcam_gpu.dataset.sources.sample import Sample
from cfcam_gpu.dataset.store.fingerprint import about
from cfcam_gpu.dataset.store.schema import Row
from cfcam_gpu.errors import StoreError
from cfcam_gpu.models import LoadedModel

#: Parts an actor has at a time: the images of the next one are decoded while the model ends the last.
AT_ONCE = 2

#: What an actor gives for a part: its rows, and what was logged meanwhile.
Answer = tuple[list[Row], list[str]]


@dataclass(frozen=True)
class Task:
    """What an actor needs to begin; `folder` is this process's working folder."""

    model: str | Callable[[], LoadedModel]
    options: RunOptions
    folder: str
    threads: int | None


class PartActor:
    """One model in a process of the cluster."""

    def __init__(self, path: list[str]) -> None:
        sys.path.extend(entry for entry in path if entry not in sys.path)
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.notes = _Notes()
        self.stack = ExitStack()
        self.pool: Pool | None = None

    def start(self, task: Task) -> dict[str, Any]:
        """Loads the model and warms it up; the content of run.json. Raises CFCAMError."""
        self.task, options = task, task.options
        _enter(task.folder)
        logging.getLogger("cfcam_gpu").addHandler(self.notes)
        if task.threads:
            torch.set_num_threads(task.threads)
        device = resolve_device(options.device)
        self.explainer, weights = self.stack.enter_context(opened(task.model, options, device, _InTurn))
        self.pool = make_pool(options.workers, options.sample_timeout)
        return about(self.explainer, weights, options)

    def explain(self, work: Work, pictures: Pictures | None) -> Answer:
        """The rows of a part, all there. Raises CFCAMError."""
        assert self.pool is not None
        if pictures is not None:
            if not pictures.temporary.is_dir():
                raise StoreError(_unseen("output folder", str(pictures.out)))
            pictures = replace(pictures, temporary=pictures.temporary / self.name)
        pipeline = make_pipeline(self.explainer, self.pool, self.task.options, pictures, never_ends)
        ((_, rows),) = pipeline([work], lambda row: None)
        return rows, self.notes.take()

    def close(self) -> None:
        """Ends the worker processes; parts under way never end."""
        if self.pool is not None:
            self.pool.close()


class _InTurn(BatchExplainer):
    """Serves the threads of an actor one after the other."""

    turn = threading.Lock()

    def rows(self, views: Sequence[View], samples: Sequence[Sample], check: Check = never_ends) -> list[Row]:
        with self.turn:
            return super().rows(views, samples, check)


class _Notes(logging.Handler):
    """Keeps warnings until the next answer takes them along."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def take(self) -> list[str]:
        lines, self.lines = self.lines, []
        return lines


def _enter(folder: str) -> None:
    """Relative paths mean the same in every process then."""
    try:
        os.chdir(folder)
    except OSError as error:
        raise StoreError(_unseen("working folder", folder)) from error


def _unseen(what: str, folder: str) -> str:
    return (
        f"the {what} {folder} is not there on {socket.gethostname()}; all machines of the cluster must see "
        "it, and the images, under the same path"
    )
