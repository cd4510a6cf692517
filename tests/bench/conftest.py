"""What the tests of several benchmarks share."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import (
    common,
    discrimination,
    precision,
)
from bench.machine import threads
from cfcam_gpu.cli.demo_photos import find_photos
from cfcam_gpu.engines import ENGINES, resolve_engine
from tests.helpers.small_benches import Tiny


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


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The tiny model instead of torchvision's, two photos instead of eight, results outside the repository."""
    monkeypatch.setattr(common, "get_model", lambda _name: Tiny())
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    for module in (precision, discrimination):
        monkeypatch.setattr(module, "find_photos", lambda: (find_photos()[0][:2], []))
    with threads(1):
        yield
