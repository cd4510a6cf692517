"""The Triton engine against the reference; on a machine without a GPU it runs under Triton's interpreter."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cfcam_gpu import PRESETS, CFCAMConfig
from cfcam_gpu.cfcam import filtering
from cfcam_gpu.engines import triton_engine
from cfcam_gpu.errors import ConfigError
from tests.helpers.features import REFERENCE, Run, assert_equivalent, blobs, clusters_of, one_image


@pytest.fixture
def run(device: str) -> Run:
    return Run("triton", device)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("preset", PRESETS)
def test_the_engine_agrees_with_the_reference(run, preset, batch):
    activations, gradients = blobs(batch, 63, 3, 5, clusters=3, seed=batch)
    differences = assert_equivalent(run, activations, gradients, CFCAMConfig.preset(preset), (20, 18))
    assert differences["label differences"] == 0


@pytest.mark.parametrize("name", filtering.FILTERS)
def test_the_engine_agrees_with_the_reference_for_each_filter_and_several_clusters(run, name):
    activations, gradients = blobs(3, 63, 4, 5, clusters=4)
    config = CFCAMConfig(
        filter=name, sigma_range=0.01, diameter=3, eps_percentile=10, min_samples_fraction=0.03
    )
    assert_equivalent(run, activations, torch.stack([gradients, -gradients], 1), config, (14, 14))
    reference = REFERENCE.explain(activations, gradients, (14, 14), config)
    assert int(clusters_of(reference).n_clusters.min()) > 1


@pytest.mark.parametrize(
    ("shape", "levels"), [((2, 1, 3, 3), 2), ((2, 2, 1, 1), 4), ((1, 3, 1, 4), 1), ((3, 9, 3, 3), 2)]
)
def test_the_engine_agrees_on_awkward_shapes_and_ties(run, shape, levels):
    """One channel, one cell, all channels equal or dead, most distances equal to eps."""
    generator = torch.Generator().manual_seed(sum(shape) + levels)
    activations = torch.randint(0, levels, shape, generator=generator).float()
    gradients = torch.randn(shape, generator=generator)
    for preset in PRESETS:
        assert_equivalent(run, activations, gradients, CFCAMConfig.preset(preset), (9, 7))


def test_more_channels_than_fit_are_refused(run):
    activations = torch.ones(1, 65_600, 1, 1)
    with pytest.raises(
        ConfigError, match=r"^engine 'triton' clusters at most 65,535 channels, got 65,600; use"
    ):
        run.explain(activations, activations, (2, 2), CFCAMConfig(dominant_percentile=None))


def test_two_runs_are_identical_and_images_do_not_depend_on_their_batch(run):
    activations, gradients = blobs(3, 40, 3, 5, clusters=3)
    config = CFCAMConfig(diameter=3, eps_percentile=10, min_samples_fraction=0.03)
    first, second = (run.explain(activations, gradients, (6, 10), config) for _ in range(2))
    alone = run.explain(activations[1:2], gradients[1:2], (6, 10), config)
    for image in range(3):
        for name, value in one_image(first, image).items():
            assert torch.equal(value, one_image(second, image)[name]), name
    assert torch.equal(clusters_of(alone).labels[0], clusters_of(first).labels[1])
    assert clusters_of(alone).eps[0] == clusters_of(first).eps[1]
    torch.testing.assert_close(alone.heatmap[0], first.heatmap[1], rtol=0, atol=1e-6)


class Watch(TorchDispatchMode):
    """The operations called and the size of the largest floating-point tensor they gave."""

    def __init__(self) -> None:
        super().__init__()
        self.called: set[str] = set()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.called.add(str(func).split(".")[1])
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                self.largest = max(self.largest, tensor.numel())
        return result


def test_nothing_is_read_back_and_no_distance_matrix_is_made(device):
    """Reading a value waits for the GPU, and B×N×N floats would not fit with a large batch."""
    activations, gradients = blobs(2, 130, 3, 3, clusters=3)
    a, g = activations.to(device), gradients[:, None].to(device)
    with Watch() as watch:
        triton_engine.explain(a, g, (6, 6), CFCAMConfig(diameter=3))
    assert not watch.called & {
        "_local_scalar_dense",
        "nonzero",
        "equal",
        "is_nonzero",
        "masked_select",
        "unique",
    }
    assert "empty" in watch.called, "the watch saw nothing"
    assert watch.largest < 2 * 97 * 97


def test_the_engine_says_why_it_can_or_cannot_run(monkeypatch):
    ok, reason = triton_engine.available("cuda")
    assert ok
    assert reason.startswith("triton 3")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert "interpreter" in triton_engine.available("cpu")[1]
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert triton_engine.available("cpu") == (
        False,
        "needs a GPU; for tests on the CPU set TRITON_INTERPRET=1 before Python starts",
    )
    monkeypatch.setitem(sys.modules, "triton", None)
    ok, reason = triton_engine.available("cuda")
    assert not ok
    assert "pip install torch triton" in reason
