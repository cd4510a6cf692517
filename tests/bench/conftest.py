"""What the tests of several benchmarks share."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

import pytest
import torch

from cfcam_gpu.engines import ENGINES, resolve_engine


@pytest.fixture
def wrong_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `auto` takes gives maps that are a thousandth off."""
    name = resolve_engine("auto", torch.device("cpu"))
    module = importlib.import_module(ENGINES[name].module)
    right = module.run

    def run(*arguments: Any) -> Any:
        maps = right(*arguments)
        return dataclasses.replace(maps, heatmap=maps.heatmap * 0.999)

    monkeypatch.setattr(module, "run", run)
