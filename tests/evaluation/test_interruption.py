"""A signal ends an evaluation before the next pass of the model, whatever is being measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cfcam_gpu.dataset.execution.observer import Observer
from cfcam_gpu.metrics import METRICS, MetricOptions
from tests.helpers.small_evaluation import evaluate_small
from tests.helpers.smallnet import make_loaded, save


class Impatient(Observer):
    """Ends the run once the model has begun `limit` passes; `passes` counts them all."""

    def __init__(self, limit: float) -> None:
        self.limit, self.passes = limit, 0

    def count(self, *_: Any) -> None:
        self.passes += 1

    def tick(self) -> None:
        if self.passes >= self.limit:
            raise KeyboardInterrupt


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("method", ["gradcam", "scorecam"])
def test_an_evaluation_ends_before_the_next_pass(pictures: Path, tmp_path: Path, metric: str, method: str):
    mask = Image.fromarray(np.full((45, 60), 255, np.uint8))
    masks = save(tmp_path / "masks", **{f"p{i}": mask for i in range(5)})
    measuring = MetricOptions(steps=5, noise_draws=1, stages=2, batch_size=4)

    def evaluate(name: str, observer: Impatient) -> None:
        loaded = make_loaded()
        loaded.model.register_forward_hook(observer.count)
        settings = {"methods": [method], "metrics": [metric], "masks": masks, "measuring": measuring}
        evaluate_small(pictures, tmp_path / name, model=loaded, observer=observer, **settings)

    whole = Impatient(float("inf"))
    evaluate("whole", whole)
    for passes_left in (1, 2, 5):
        ended = Impatient(max(1, whole.passes - passes_left))
        with pytest.raises(KeyboardInterrupt):
            evaluate(f"ended{passes_left}", ended)
        assert ended.passes == ended.limit
