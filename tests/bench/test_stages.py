"""The stages compute what the engine computes, and their floors follow the formulas."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from bench import (
    stages,
)
from bench.floors import Count, model_counts, stage_counts
from bench.machine import threads
from cfcam_gpu import CFCAMConfig
from cfcam_gpu.capture.layers import find_layer
from cfcam_gpu.cfcam.clustering import Clusters
from tests.helpers.small_benches import SMALL, Tiny

pytestmark = pytest.mark.usefixtures("tiny")


@pytest.mark.parametrize(
    ("engine", "scan"), [("numba", {"neighbours", "search"}), ("torch", {"distances", "percentile"})]
)
def test_stages_take_no_less_than_their_floor_and_have_the_engines_labels(engine, scan, monkeypatch):
    monkeypatch.setattr(
        stages, "peaks", lambda *_: {"float32_gflops": 1e6, "model_gflops": 1e6, "copy_gbytes": 1e6}
    )
    with threads(2):
        result = stages.run(stages.Options(**SMALL, batch=3, repeats=1, engine=engine))
    assert result["engine"] == engine
    for name, row in result["stages"].items():
        assert row["ms_per_image"] > row["floor_ms"] >= 0, name
    assert {"forward to the layer", "dominance", *scan, "map"} <= set(result["stages"])
    json.dumps(result, allow_nan=False)


def test_the_triton_engines_stages_find_the_same_labels():
    torch.manual_seed(0)
    model, images = Tiny().eval(), torch.randn(1, 3, 8, 8)
    layer = find_layer(model, "layer4")
    expected, staged = (
        stages.explain_in_stages(model, layer, images, stages.ENGINE_STAGES[engine])
        for engine in ("torch", "triton")
    )
    assert torch.equal(staged.clusters.labels, expected.clusters.labels)
    assert {"dominance", "neighbours", "search", "map", "upsampling"} <= set(staged.seconds)


def test_stages_that_find_other_labels_than_the_engine_stop_the_bench(monkeypatch):
    def scan(clock: stages.Clock) -> Any:
        right = stages.torch_scan(clock)

        def wrong(*features: Any) -> Any:
            labels, n_clusters, eps = right(*features)
            return labels + 1, n_clusters, eps

        return wrong

    monkeypatch.setitem(stages.ENGINE_STAGES, "torch", stages.EngineStages(stages.steps_in_pytorch(scan)))
    with pytest.raises(SystemExit, match="the stages' labels are not the engine's"):
        stages.run(stages.Options(**SMALL, batch=2, repeats=1, engine="torch"))


def test_an_engine_without_stages_is_named():
    with pytest.raises(SystemExit, match="stages of engine 'reference' are not timed; choose one of: numba"):
        stages.run(stages.Options(**SMALL, engine="reference"))


def test_floors_follow_the_formulas():
    assert Count(flops=3e9, bytes=1e9).floor_ms({"float32_gflops": 100, "copy_gbytes": 10}) == pytest.approx(
        100
    )
    assert Count(3e9, 0, model=True).floor_ms({"model_gflops": 100, "copy_gbytes": 10}) == pytest.approx(30)
    labels = torch.tensor([[-2, 0, 0, 1, 1, -1]])
    clusters = Clusters(labels, torch.tensor([2]), torch.tensor([1.0]))
    shape = torch.Size([1, 6, 2, 3])
    counts = stage_counts(shape, (4, 6), clusters, CFCAMConfig(), distances_stored=True)
    assert counts["distances"] == Count(3 * 6 * 10, 4 * (5 * 6 + 10))  # 5 channels of 6 values, 10 pairs
    assert counts["map"] == Count(2 * 6 * 6, 4 * (6 * 6 + 6))
    again = stage_counts(shape, (4, 6), clusters, CFCAMConfig(), distances_stored=False)
    assert again["neighbours"].flops == counts["distances"].flops
    assert again["distances"].bytes == 4 * 5 * 6


def test_the_models_operations_are_those_of_its_convolutions_and_products():
    model = Tiny().eval()
    counts = model_counts(model, find_layer(model, "layer4"), torch.randn(1, 3, 16, 16), batch=2)
    forward, head = counts["forward to the layer"], counts["head and its backward"]
    assert forward.flops == 2 * 3 * 9 * 24 * 64
    assert head.flops == 2 * 2 * 24 * 5
    body = sum(p.numel() for p in model.layer4.parameters())
    assert forward.bytes == 4 * (body / 2 + 3 * 16 * 16 + 24 * 64)
    assert head.bytes == 4 * (2 * (24 * 5 + 5) / 2 + 2 * 24 * 64)
