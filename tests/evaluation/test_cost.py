"""How fast the methods are."""

from __future__ import annotations

from typing import Any, cast

import torch

from cfcam_gpu.evaluation import cost
from cfcam_gpu.explainer import CFCAM
from cfcam_gpu.methods import METHODS


def test_methods_take_turns_and_the_median_counts(monkeypatch):
    calls: list[str] = []
    now = [0.0]
    durations = {"slow": 2.0, "fast": 0.25}
    monkeypatch.setattr(cost.time, "perf_counter", lambda: now[0])

    class Cam:
        """Takes the time of its name; the first call of all is slower."""

        method = METHODS["gradcam"]

        def __init__(self, name: str) -> None:
            self.name = name

        def __call__(self, *_: Any, **__: Any) -> None:
            calls.append(self.name)
            now[0] += 50.0 if calls == ["slow"] else durations[self.name]

    images = torch.zeros(4, 3, 8, 8)
    for name, value in {"_FEWEST": 3, "_ENOUGH": 1.0, "_TOO_LONG": 100.0}.items():
        monkeypatch.setattr(cost, name, value)
    found = cost.images_per_second(
        {name: cast(CFCAM, Cam(name)) for name in durations}, images, torch.zeros(4)
    )
    assert calls == ["slow", "fast"] * 3
    assert found == {"slow": 2.0, "fast": 16.0}
