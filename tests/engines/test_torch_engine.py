"""Engine `torch` as it runs on a GPU: its distances and order statistics there, taken on the CPU."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cfcam_gpu import PRESETS, CFCAMConfig
from cfcam_gpu.cfcam import clustering
from tests.helpers.features import Run, assert_equivalent, blobs

TORCH = Run("torch", "cpu")


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What devices other than the CPU take, with blocks of few rows."""
    monkeypatch.setattr(clustering, "_DISTANCES", {})
    monkeypatch.setattr(clustering, "_SELECTION", {})
    monkeypatch.setattr(clustering, "_DIFFERENCE_BYTES", 4 * 4 * 20 * 49)


@pytest.mark.parametrize("preset", PRESETS)
def test_real_features(real_features, preset):
    activations, gradients = real_features("_blocks.10")
    assert_equivalent(TORCH, activations[:2], gradients[:2], CFCAMConfig.preset(preset))


@pytest.mark.parametrize(
    ("batch", "channels", "h", "w"), [(1, 1, 7, 7), (3, 63, 5, 9), (2, 130, 14, 14), (1, 2, 1, 1)]
)
def test_awkward_shapes(batch, channels, h, w):
    activations, gradients = blobs(batch, channels, h, w, clusters=3)
    assert_equivalent(TORCH, activations, gradients, CFCAMConfig(eps_percentile=10))


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, n) for n in (3, 24, 3, 3)]),
    levels=st.integers(1, 4),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
    seed=st.integers(0, 2**31),
)
def test_ties_and_scales(shape, levels, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    activations = torch.randint(0, levels, shape, generator=generator) * scale
    gradients = torch.randn(shape, generator=generator)
    assert_equivalent(TORCH, activations, gradients, CFCAMConfig(), size=(9, 11))


@pytest.mark.parametrize("rows", [1, 7, 63, 1000])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_distances_by_blocks_are_as_exact_as_float32_allows(monkeypatch, rows, offset):
    """A Gram matrix would lose the small distances of channels that have a large mean in common."""
    features = torch.randn(2, 63, 45, generator=torch.Generator().manual_seed(1)) + offset
    features[:, 7] = features[:, 9]
    monkeypatch.setattr(clustering, "_DIFFERENCE_BYTES", rows * 4 * 2 * 63 * 45)
    distances = clustering.distances_by_blocks(features)
    exact = clustering.distances_by_pairs(features.double())
    torch.testing.assert_close(distances.double(), exact, rtol=1e-6, atol=0)
    assert torch.equal(distances, distances.mT)
    assert not distances[:, 7, 9].any()
    assert not distances.diagonal(dim1=1, dim2=2).any()


def test_differences_are_never_larger_than_their_bound(monkeypatch):
    """A block of rows at a time; one row where the bound holds less than one."""
    largest: list[int] = []
    norm = torch.linalg.vector_norm

    def recorded(x, **settings):
        largest.append(x.numel())
        return norm(x, **settings)

    monkeypatch.setattr(torch.linalg, "vector_norm", recorded)
    for bound in (1, 4 * 2 * 30 * 8 * 5):
        monkeypatch.setattr(clustering, "_DIFFERENCE_BYTES", bound)
        largest.clear()
        clustering.distances_by_blocks(torch.rand(2, 30, 8))
        assert max(largest) * 4 <= max(bound, 4 * 2 * 30 * 8)
        assert len(largest) == math.ceil(30 / max(1, bound // (4 * 2 * 30 * 8)))
