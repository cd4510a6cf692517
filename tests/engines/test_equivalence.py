"""The equivalence contract: every engine gives the reference's labels, grid and heatmap, whatever the batch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cfcam_gpu import PRESETS, CFCAMConfig
from cfcam_gpu.config import FILTERS
from tests.conftest import REAL_LAYERS
from tests.helpers.features import FAST, assert_equivalent, blobs, clusters_of, one_image
from tests.helpers.tolerances import MAP

pytestmark = pytest.mark.parametrize("run", FAST, ids=str)


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("layer", REAL_LAYERS)
def test_real_features(run, real_features, layer, preset, batch, record_property):
    activations, gradients = real_features(layer)
    differences = assert_equivalent(run, activations[:batch], gradients[:batch], CFCAMConfig.preset(preset))
    record_property("largest differences", differences)
    print(f"{run} {layer} {preset} batch {batch}: {differences}")


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("shape", [(256, 7, 7), (63, 5, 9), (130, 14, 14)])
@pytest.mark.parametrize("name", FILTERS)
def test_generated_features_with_several_clusters(run, name, shape, batch):
    channels, h, w = shape
    activations, gradients = blobs(batch, channels, h, w, clusters=5)
    config = CFCAMConfig(filter=name, sigma_range=0.01, eps_percentile=10, min_samples_fraction=0.03)
    differences = assert_equivalent(run, activations, gradients, config)
    assert int(clusters_of(run.explain(activations, gradients, (8, 8), config)).n_clusters.min()) > 1
    print(f"{run} {name} {shape} batch {batch}: {differences}")


@settings(max_examples=100, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, n) for n in (3, 48, 4, 4)]),
    levels=st.integers(1, 4),
    scale=st.sampled_from([1e-6, 1e-3, 1.0, 1e6]),
    preset=st.sampled_from(sorted(PRESETS)),
    percentile=st.sampled_from([2, 10, 25, 70]),
    fraction=st.sampled_from([0.05, 0.15, 0.3]),
    seed=st.integers(0, 2**31),
)
def test_awkward_shapes_ties_and_scales(run, shape, levels, scale, preset, percentile, fraction, seed):
    """Few levels make most distances equal, many of them equal to eps; clusters contest their border points."""
    generator = torch.Generator().manual_seed(seed)
    activations = torch.randint(0, levels, shape, generator=generator) * scale
    gradients = torch.randn(shape, generator=generator)
    config = CFCAMConfig.preset(preset, eps_percentile=percentile, min_samples_fraction=fraction)
    assert_equivalent(run, activations, gradients, config, size=(9, 11))


@pytest.mark.parametrize("preset", PRESETS)
def test_an_image_does_not_depend_on_its_batch(run, preset, real_features):
    activations, gradients = real_features("_blocks.10")
    config = CFCAMConfig.preset(preset)
    whole = run.explain(activations, gradients, (32, 32), config)
    for index in range(len(activations)):
        alone = run.explain(activations[index, None], gradients[index, None], (32, 32), config)
        for name, value in one_image(alone, 0).items():
            torch.testing.assert_close(value, one_image(whole, index)[name], rtol=0, atol=MAP / 10, msg=name)


def test_two_runs_are_identical(run, real_features):
    activations, gradients = real_features("_blocks.10")
    first, second = (run.explain(activations, gradients, (32, 32)) for _ in range(2))
    assert torch.equal(first.heatmap, second.heatmap)
    assert torch.equal(first.labels, second.labels)


def test_targets_share_the_clustering_and_keep_their_own_maps(run):
    activations, gradients = blobs(3, 40, 6, 5, clusters=3)
    both = run.explain(activations, torch.stack([gradients, -gradients], 1), (12, 10))
    assert both.heatmap.shape == (3, 2, 12, 10)
    for k, sign in enumerate((1, -1)):
        one = run.explain(activations, sign * gradients, (12, 10))
        torch.testing.assert_close(both.heatmap[:, k], one.heatmap, rtol=0, atol=MAP / 10)
        assert torch.equal(both.labels, one.labels)
