"""The pipeline decodes ahead of the model, but not far."""

from __future__ import annotations

import itertools

import torch

from cfcam_gpu.dataset.execution.batch_explainer import BatchExplainer
from cfcam_gpu.dataset.execution.parts import PendingPart
from cfcam_gpu.dataset.execution.pipeline import Pipeline
from cfcam_gpu.dataset.execution.pool import InlinePool
from cfcam_gpu.dataset.sources.sample import Sample
from cfcam_gpu.explainer import CFCAM
from tests.helpers.smallnet import make_loaded, photo, save


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
    ahead = [pool.count - 4 * (part + 1) for part, _ in pipeline(parts, lambda _: None)]
    assert max(ahead) <= 16
    assert ahead[-1] == 0
