"""Every kernel compiles for a GPU: Triton's interpreter accepts what its compiler does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from bench.device_ops import stubbed_kernels
from cfcam_gpu import CFCAMConfig
from cfcam_gpu.engines import triton_engine
from cfcam_gpu.methods.sharp import STEPS

#: In a process of its own: here Triton may be an interpreter.
COSTS = """
import json
from bench import kernel_costs
print(json.dumps({"shared_limit": kernel_costs.SHARED, **kernel_costs.run(kernel_costs.Options())}))
"""

#: Estimated µs an image of ResNet-50's `layer4`, batch 256; and of what other calls add.
MOST_MICROSECONDS = 12.0
MOST_OF_OTHERS = {"preset spatial, layer3": 6.5, "cfcam-sharp, layer3": 4.6}


@pytest.fixture(scope="module")
def costs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton"))}
    run = subprocess.run(
        [sys.executable, "-c", COSTS], capture_output=True, text=True, check=False, env=environment
    )
    assert run.returncode == 0, run.stderr[-2000:]
    result: dict[str, Any] = json.loads(run.stdout)
    return result


def every_row(costs: dict[str, Any]) -> list[dict[str, Any]]:
    """What the compiler made of each kernel, for each call."""
    calls = [costs, *costs["others"].values()]
    return [*(row for call in calls for row in call["kernels"].values()), *costs["odd"]]


def test_no_kernel_keeps_registers_in_memory(costs: dict[str, Any]) -> None:
    """Compiled for an H100, which has 227 KB of shared memory for a program; also for awkward sizes."""
    for row in every_row(costs):
        assert row["spilled"] == 0, row
        assert row["registers"] <= 255, row
        assert row["shared"] <= costs["shared_limit"], row


def test_heatmaps_are_computed_as_written(costs: dict[str, Any]) -> None:
    """Each operation is rounded: a fused or approximate one moves the maximum of a map from 1, and its outputs."""
    rows = [row for row in costs["odd"] if row["kernel"] in ("_peaks", "_heatmaps")]
    assert len(rows) == 2
    for row in [costs["kernels"]["_peaks"], costs["kernels"]["_heatmaps"], *rows]:
        assert row["unrounded"] == 0, row
    assert costs["kernels"]["_pooled"]["unrounded"] > 0  # where it does no harm


def test_every_kernel_of_a_call_is_compiled(costs: dict[str, Any]) -> None:
    launched = []
    activations = torch.empty(2, 64, 7, 7, device="meta")
    large = torch.empty(2, 64, 112, 112, device="meta")
    with stubbed_kernels(lambda name, _grid: launched.append(name)):
        for features in (activations, large):
            for preset in ("default", "spatial"):
                config = CFCAMConfig.preset(preset)
                triton_engine.explain(features, features[:, None], (32, 32), config)
            spread = STEPS["triton"].spread(features[:, :1], features)
            STEPS["triton"].evidence(features, features[:, None], spread)
    of_others = {name for call in costs["others"].values() for name in call["kernels"]}
    assert set(launched) == {*costs["kernels"], *of_others, *(row["kernel"] for row in costs["odd"])}


def test_the_distances_are_bound_by_arithmetic(costs: dict[str, Any]) -> None:
    """Of the instructions of a step at least four in five are floating-point operations: 64 sums a thread."""
    (loop,) = costs["kernels"]["_pairs"]["loops"]
    _, instructions, floating = loop
    assert floating == 128
    assert floating / instructions > 0.8


def test_a_filtered_cell_costs_few_instructions(costs: dict[str, Any]) -> None:
    """Of each step over the window, for two cells a thread: borders, weight and both sums."""
    *_, (_, instructions, _) = costs["others"]["preset spatial, layer3"]["kernels"]["_spatial"]["loops"]
    assert instructions <= 46


def test_the_estimated_time_meets_its_goal(costs: dict[str, Any]) -> None:
    assert costs["us_per_image"] <= MOST_MICROSECONDS
    found = {name: call["us_per_image"] for name, call in costs["others"].items()}
    assert found.keys() == MOST_OF_OTHERS.keys()
    assert all(found[name] <= most for name, most in MOST_OF_OTHERS.items()), found
