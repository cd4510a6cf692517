"""The map of weighting `spatial` against the weights that PyTorch stores, one for every cell, in float64."""

from __future__ import annotations

import pytest
import torch

from cfcam_gpu import CFCAMConfig
from cfcam_gpu.cfcam.clustering import Clusters, cluster_channels, scan_in_chunks
from cfcam_gpu.cfcam.weighting import class_map
from cfcam_gpu.kernels import filters, spatial
from tests.helpers.tolerances import FILTER

#: Three images: no cluster, one, several; dominant channels and noise.
LABELS = torch.tensor(
    [[-2, -1] * 5 + [-1], [0] * 9 + [-1, -2], [0, 1, 2, 1, -1, -2, 0, 1, 0, 1, 0]], dtype=torch.int64
)
N_CLUSTERS = torch.tensor([0, 1, 3])


def maps(device, activations, gradients, labels, n_clusters, config, cells=None):
    """The kernel's grid, and PyTorch's."""
    grid = spatial.spatial_map(
        activations.to(device),
        gradients.to(device),
        labels.to(device),
        n_clusters.to(device),
        max(1, labels.shape[1] // 2),
        config.filter,
        config.radius(*gradients.shape[-2:]),
        config.sigma_space,
        config.sigma_range,
        cells,
    ).cpu()
    clusters = Clusters(labels, n_clusters, torch.ones(len(labels)))
    return grid, class_map(activations.double(), gradients.double(), clusters, config).float()


def images(shape, scale=0.3, seed=1):
    """Activations of both signs, so that sums may be negative, and gradients for two targets."""
    generator = torch.Generator().manual_seed(seed)
    gradients = scale * torch.randn(3, 2, 11, *shape, generator=generator)
    return torch.randn(3, 11, *shape, generator=generator), gradients


@pytest.mark.parametrize("name", filters.FILTERS)
def test_the_map_is_that_of_stored_weights(device, name):
    """Of 2 tiles, with each filter."""
    config = CFCAMConfig.preset("spatial", filter=name, sigma_space=1.0, sigma_range=0.2, diameter=3)
    activations, gradients = images((3, 9))
    grid, expected = maps(device, activations, gradients, LABELS, N_CLUSTERS, config, cells=16)
    torch.testing.assert_close(grid, expected, rtol=0, atol=FILTER * float(expected.max()))


@pytest.mark.parametrize(
    ("shape", "scale"), [((1, 1), 0.3), ((1, 6), 50.0), ((7, 7), 1e-6), ((4, 5), 1e-22), ((4, 5), 1e-30)]
)
def test_awkward_shapes_and_gradients_whose_squares_underflow(device, shape, scale):
    config = CFCAMConfig.preset("spatial", diameter=5)
    activations, gradients = images(shape, scale)
    grid, expected = maps(device, activations, gradients, LABELS, N_CLUSTERS, config)
    assert expected.max() > 0
    torch.testing.assert_close(grid, expected, rtol=0, atol=FILTER * float(expected.max()))


@pytest.mark.parametrize(("side", "channels", "cells"), [(28, 5, None), (112, 2, 2048)])
def test_large_maps_are_cut_into_tiles(device, side, channels, cells):
    """One dominant channel, a cluster of the others."""
    generator = torch.Generator().manual_seed(side)
    gradients = 1e-3 * torch.randn(1, 1, channels, side, side, generator=generator)
    activations = torch.rand(1, channels, side, side, generator=generator)
    labels = torch.zeros(1, channels, dtype=torch.int64)
    labels[0, 0] = -2
    config = CFCAMConfig.preset("spatial", diameter=3)
    grid, expected = maps(device, activations, gradients, labels, torch.tensor([1]), config, cells)
    torch.testing.assert_close(grid, expected, rtol=0, atol=FILTER * float(expected.max()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_more_channels_than_programs_and_one_channel_in_half_precision(device, dtype):
    for count in (1, 67):
        generator = torch.Generator().manual_seed(count)
        labels = torch.randint(-2, 2, (2, count), generator=generator)
        labels[:, 0] = -2 if count == 1 else 1
        n_clusters = labels.amax(1).clamp_min(-1) + 1
        gradients = torch.randn(2, 1, count, 3, 5, generator=generator)
        activations = torch.rand(2, count, 3, 5, generator=generator).to(dtype)
        config = CFCAMConfig.preset("spatial", diameter=3)
        grid, expected = maps(device, activations, gradients, labels, n_clusters, config)
        assert grid.dtype == torch.float32
        torch.testing.assert_close(grid, expected, rtol=0, atol=FILTER * float(expected.max()))


def test_real_features(device, real_features):
    """Two photos at an earlier layer, with the clusters that they have there."""
    activations, gradients = (features[:2] for features in real_features("_blocks.10"))
    config = CFCAMConfig.preset("spatial")
    clusters = cluster_channels(activations, config, scan_in_chunks)
    assert int(clusters.n_clusters.min()) > 0
    grid, expected = maps(device, activations, gradients, clusters.labels, clusters.n_clusters, config)
    torch.testing.assert_close(grid, expected, rtol=0, atol=FILTER * float(expected.max()))


def test_equal_gradients_stay_as_they_are_and_nan_stays_in_its_image(device):
    config = CFCAMConfig.preset("spatial", diameter=3)
    gradients, activations = torch.full((3, 1, 11, 5, 9), 0.25), torch.ones(3, 11, 5, 9)
    gradients[2, 0, 0, 0, 0] = torch.nan
    grid, _ = maps(device, activations, gradients, LABELS, N_CLUSTERS, config)
    assert [image.unique().tolist() for image in grid[:2]] == [[1.25], [2.5]]
    assert grid[2].isnan().any()


def test_two_calls_are_identical_and_images_do_not_depend_on_their_batch(device):
    config = CFCAMConfig.preset("spatial", diameter=3)
    activations, gradients = images((4, 5))
    first, second = (maps(device, activations, gradients, LABELS, N_CLUSTERS, config)[0] for _ in range(2))
    assert torch.equal(first, second)
    alone, _ = maps(device, activations[2:], gradients[2:], LABELS[2:], N_CLUSTERS[2:], config)
    assert torch.equal(alone[0], first[2])
