"""Benchmarks of a tiny model: the figures mean nothing, everything else is as in a real run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from bench import (
    discrimination,
    memory,
    precision,
    scaling,
    stages,
    throughput,
)

#: Options of a setup with tiny images.
SMALL: dict[str, Any] = {"side": 16}


class Tiny(nn.Module):
    """A convolution with BatchNorm and ReLU, global average pooling, two classes more than channels of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.layer4 = nn.Sequential(nn.Conv2d(3, 24, 3, stride=2, padding=1), nn.BatchNorm2d(24), nn.ReLU())
        self.fc = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer4(x).mean((2, 3)))


#: Name of a benchmark -> a run of it.
BENCHES: dict[str, Callable[[], dict[str, Any]]] = {
    "throughput": lambda: throughput.run(
        throughput.Options(**SMALL, batches=(1, 2), repeats=1, compiled=False)
    ),
    "stages": lambda: stages.run(stages.Options(**SMALL, batch=2, repeats=1)),
    "scaling": lambda: scaling.run(
        scaling.Options(
            **SMALL, channels=(16, 32), sides=(3, 5), batches=(1, 2), targets=(1, 2), batch=2, repeats=1
        )
    ),
    "memory": lambda: memory.run(memory.Options(**SMALL, batches=(), calls=20, small_side=16)),
    "precision": lambda: precision.run(precision.Options(repeats=1)),
    "discrimination": lambda: discrimination.run(discrimination.Options()),
}
