"""Memory that grows is a failure; memory that does not is not."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from bench import (
    common,
    memory,
)
from tests.helpers.small_benches import BENCHES

pytestmark = pytest.mark.usefixtures("tiny")


def test_memory_reports_no_growth_where_there_is_none():
    result = BENCHES["memory"]()
    json.dumps(result, allow_nan=False)
    assert result["failed"] == []
    assert [growth["calls"] for growth in result["growth"].values()] == [[2, 20]] * 2


@pytest.mark.parametrize("kept", [lambda: torch.zeros(1), lambda: np.ones(2**23)], ids=["a tensor", "64 MB"])
def test_memory_that_grows_is_seen(kept):
    leak: list[Any] = []
    assert not memory.growth(lambda: leak.append(kept()), 5)["none"]


def test_memory_that_grows_is_a_failure(monkeypatch):
    leak: list[Any] = []
    monkeypatch.setattr(memory, "explain_activations", lambda *_: leak.append(torch.zeros(1)))
    (failed,) = BENCHES["memory"]()["failed"]
    assert failed.startswith("memory grows: explain_activations, 64 channels")


def test_peak_memory_contains_what_was_allocated():
    before = memory.resident("VmHWM") / memory.MB
    assert memory.peak_mb("explained", common.Setup(side=16), 1) >= before - 1
    held = np.ones(2**27)  # a GB
    assert memory.resident("VmHWM") / memory.MB > 1000 < held.nbytes / memory.MB
