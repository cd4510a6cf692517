"""The pipeline decodes ahead of the model, but not far."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import torch

from cfcam_gpu.dataset.execution import worker
from cfcam_gpu.dataset.execution.batch_explainer import BatchExplainer
from cfcam_gpu.dataset.execution.parts import PendingPart
from cfcam_gpu.dataset.execution.pipeline import Pipeline
from cfcam_gpu.dataset.execution.pool import InlinePool
from cfcam_gpu.dataset.execution.worker import OverlayStyle
from cfcam_gpu.dataset.sources.sample import Sample
from cfcam_gpu.dataset.store.journal import Journals
from cfcam_gpu.dataset.store.store import Store
from cfcam_gpu.explainer import CFCAM
from tests.helpers.smallnet import PLAIN, make_loaded, photo, save


def test_only_a_few_batches_are_decoded_ahead(tmp_path):
    folder = save(tmp_path / "in", **{f"p{i:02}": photo(i) for i in range(40)})
    decoded = itertools.count()

    class Counting(InlinePool):
        def submit(self, task, *arguments):
            self.count = next(decoded) + 1
            return super().submit(task, *arguments)

    pool = Counting()
    explainer = BatchExplainer(
        make_loaded(), CFCAM(make_loaded().model, on_invalid="flag"), torch.device("cpu"), 4
    )
    pipeline = Pipeline(explainer, pool, 4, 8, None, lambda: None)
    parts = (
        PendingPart(
            part, [Sample(str(i), str(folder / f"p{i:02}.png")) for i in range(part * 4, part * 4 + 4)]
        )
        for part in range(10)
    )
    ahead = [
        pool.count - 4 * (part + 1)
        for part, _ in pipeline(parts, lambda _: None, Journals(Store(tmp_path / "out"), (8, 8), ""))
    ]
    assert max(ahead) <= 16
    assert ahead[-1] == 0


def test_threads_of_one_process_write_pictures_through_files_of_their_own(tmp_path, monkeypatch):
    """As the threads of a Ray actor without worker processes do."""
    save(tmp_path, a=photo(1))
    both, temporaries = threading.Barrier(2), []

    def write(_path, _content, temporary):
        both.wait(10)
        temporaries.append(temporary)

    monkeypatch.setattr(worker, "write_atomically", write)
    style = OverlayStyle("png", "inferno", 0.4)
    grid = np.ones((2, 2), np.float32)
    arguments = (str(tmp_path / "a.png"), PLAIN, grid, tmp_path, "a_cfcam.png", tmp_path, style)
    threads = [threading.Thread(target=worker.write_overlay, args=arguments) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(set(temporaries)) == 2
