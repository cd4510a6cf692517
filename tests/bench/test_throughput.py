"""Throughput times every case that computes the right thing, and names the others."""

from __future__ import annotations

import json

import numpy as np
import pytest
from torch import Tensor

from bench import (
    common,
    peers,
    throughput,
)
from tests.helpers.small_benches import BENCHES
from tests.helpers.tolerances import MAP

pytestmark = [
    pytest.mark.usefixtures("tiny"),
    # The published code causes both warnings.
    pytest.mark.filterwarnings("ignore:Full backward hook is firing"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
]


def test_throughput_times_every_case_and_relates_it_to_the_explanation():
    result = BENCHES["throughput"]()
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    names = {"forward only", "explained", "forward only, prepared", "explained, prepared", "published steps"}
    timed = {name for name, report in result["peers"].items() if "not_timed" not in report}
    assert list(result["peers"]) == list(peers.PEERS)
    for figures in result["batches"].values():
        assert names | timed <= set(figures["cases"])
        assert figures["over_explained"]["explained"] == figures["over_prepared"]["explained, prepared"] == 1
        forward, explained = (
            figures["cases"][name]["ms_per_image"] for name in ("forward only", "explained")
        )
        assert figures["over_explained"]["forward only"] == pytest.approx(
            forward / explained, rel=0.01, abs=1e-3
        )
    assert result["prepared"]["candidates"][result["prepared"]["chosen"]]["within"]
    assert result["published_difference"] <= MAP


def test_published_steps_that_differ_stop_the_bench(monkeypatch):
    monkeypatch.setattr(throughput, "published_steps", lambda *_: np.zeros((16, 16)))
    with pytest.raises(SystemExit, match=r"published steps' heatmap is 1\.0e\+00 off, nothing is timed"):
        BENCHES["throughput"]()


def raises(_images: Tensor) -> Tensor:
    raise OSError("no C++ compiler\nfound")


@pytest.mark.parametrize(
    ("work", "outcome"),
    [
        (lambda images: images * 1.00001, None),
        (lambda images: images * 1.1, "its logits are 1.0e-01 of their spread off the eager ones"),
        (raises, "OSError: no C++ compiler"),
    ],
    ids=["right", "wrong", "failing"],
)
def test_a_compiled_model_is_timed_only_when_it_computes_the_same(work, outcome):
    setup = common.Setup(side=16)
    first_call = throughput.first_call(
        throughput.Entry(work, setup), throughput.Entry(lambda images: images, setup), 2
    )
    assert first_call.get("not_timed") == outcome
    assert ("compile_s" in first_call) == (outcome is None)
