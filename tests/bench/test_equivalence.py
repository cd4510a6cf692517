"""A benchmark checks first, and an engine that differs from the reference is not timed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench import (
    discrimination,
    equivalence,
    memory,
    precision,
    scaling,
    stages,
    throughput,
)
from tests.helpers.small_benches import BENCHES

pytestmark = [
    pytest.mark.usefixtures("tiny"),
    # The published code causes both warnings.
    pytest.mark.filterwarnings("ignore:Full backward hook is firing"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
]


@pytest.mark.usefixtures("wrong_engine")
@pytest.mark.parametrize("name", BENCHES)
def test_a_red_equivalence_check_stops_a_bench_before_anything_is_timed(name, monkeypatch):
    def timed(*_arguments: Any, **_options: Any) -> None:
        raise AssertionError("timed")

    for module, function in [
        *((module, "interleaved") for module in (throughput, stages, scaling, precision)),
        (memory, "growth"),
        (discrimination, "measure"),
    ]:
        monkeypatch.setattr(module, function, timed)
    with pytest.raises(SystemExit, match=r"equivalence check failed, nothing is timed: .*'heatmap': 0\.000"):
        BENCHES[name]()


GREEN = {"eps": 0.0, "grid": 1e-6, "heatmap": 1e-5, "other_labels": 1, "other_labels_at_a_near_tie": 1}


@pytest.mark.parametrize(
    "change",
    [
        {"grid": 2e-4},
        {"heatmap": 2e-4},
        {"eps": 1e-5},
        {"heatmap": None},
        {"heatmap": float("nan")},
        {"other_labels": 2},
    ],
    ids=str,
)
def test_only_near_ties_and_rounding_are_within_the_contract(change):
    assert equivalence.required(GREEN) == GREEN
    with pytest.raises(SystemExit, match="nothing is timed"):
        equivalence.required(GREEN | change)


def test_the_worst_image_decides_whether_heatmaps_are_the_same():
    ramp = torch.linspace(0, 1, 16).view(1, 4, 4)
    plain: Any = SimpleNamespace(heatmap=torch.cat([ramp, ramp]), labels=torch.zeros(2, 4))
    off: Any = SimpleNamespace(
        heatmap=torch.cat([ramp, ramp.flip(2)]), labels=torch.tensor([[0] * 4, [1, 0, 0, 0]])
    )
    assert equivalence.closeness(plain, plain) == {
        "mean": 0, "largest": 0, "correlation": 1, "other_labels": 0, "within": True,
    }  # fmt: skip
    figures = equivalence.closeness(off, plain)
    assert figures["mean"] == pytest.approx(2 / 15, abs=1e-6)  # the mean of |3-2·column| cells of 1/15
    assert (figures["other_labels"], figures["within"]) == (0.125, False)
