"""What the tests of several benchmarks share."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from cfcam_gpu.engines import ENGINES, resolve_engine


@pytest.fixture
def wrong_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `auto` takes gives maps that are a thousandth off."""
    name = resolve_engine("auto", torch.device("cpu"))
    engine = ENGINES[name]

    def run(*arguments: Any) -> Any:
        maps = engine.run(*arguments)
        return dataclasses.replace(maps, heatmap=maps.heatmap * 0.999)

    monkeypatch.setitem(ENGINES, name, dataclasses.replace(engine, run=run))
