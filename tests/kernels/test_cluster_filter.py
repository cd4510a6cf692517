"""The clusters' weights against the filtered mean maps that PyTorch stores."""

from __future__ import annotations

import pytest
import torch

from cfcam_gpu import CFCAMConfig
from cfcam_gpu.cfcam import filtering, weighting
from cfcam_gpu.kernels import cluster_filter, filters
from tests.helpers.tolerances import FILTER


@pytest.mark.parametrize(
    ("shape", "scale"), [((1, 1), 0.3), ((1, 6), 0.3), ((5, 9), 1e-6), ((5, 9), 50.0), ((7, 7), 0.3)]
)
@pytest.mark.parametrize("name", filters.FILTERS)
def test_pooled_weights_are_those_of_the_filtered_mean_maps(device, name, shape, scale):
    """Two targets, images with no, one and several clusters, a cluster of one channel."""
    config = CFCAMConfig(filter=name, sigma_space=1.0, sigma_range=0.2)
    gradients = scale * torch.randn(3, 2, 11, *shape, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor(
        [[-2, -1] * 5 + [-1], [0] * 9 + [-1, -2], [0, 1, 2, 1, -1, -2, 0, 1, 0, 1, 0]], dtype=torch.int64
    )
    n_clusters = torch.tensor([0, 1, 3])
    pooled = cluster_filter.pooled_weights(
        gradients.to(device),
        labels.to(device),
        n_clusters.to(device),
        5,
        name,
        config.radius(*shape),
        config.sigma_space,
        config.sigma_range,
        channels=4 if shape == (5, 9) else None,
    )
    means = weighting.cluster_means(gradients, labels, 5)
    expected = filtering.filter_maps(means.flatten(0, 2), config).mean((1, 2)).view(3, 2, 5)
    atol = FILTER * float(means.abs().max())
    torch.testing.assert_close(pooled.cpu(), expected, rtol=0, atol=atol)
    assert not pooled[0].any()
    assert not pooled[2, :, 3:].any()


@pytest.mark.parametrize("name", filters.FILTERS)
def test_a_map_of_112_rows_and_columns_is_filtered_in_tiles(device, name):
    """12,544 cells of values far from zero, one cluster of three channels: the sums lose no digits."""
    gradients = 5 + torch.randn(2, 1, 4, 112, 112, generator=torch.Generator().manual_seed(1))
    labels, n_clusters = torch.tensor([[0, -1, 0, 0], [-1, -1, -2, -2]]), torch.tensor([1, 0])
    config = CFCAMConfig(filter=name, sigma_space=1.0, sigma_range=0.5, diameter=3)
    pooled = cluster_filter.pooled_weights(
        gradients.to(device), labels.to(device), n_clusters.to(device), 2, name, 1, 1.0, 0.5
    ).cpu()
    mean = gradients[0, 0, labels[0] == 0].double().mean(0)
    expected = filtering.filter_maps(mean[None], config).mean()
    assert abs(float(pooled[0, 0, 0]) - float(expected)) < FILTER * float(mean.abs().max())
    assert not pooled[0, 0, 1:].any()
    assert not pooled[1].any()


@pytest.mark.parametrize("name", filters.FILTERS)
def test_tiles_give_the_weights_of_the_whole_map(device, name):
    """Two targets, several clusters, a map that is no multiple of the tile."""
    gradients = torch.randn(2, 2, 9, 7, 11, generator=torch.Generator().manual_seed(3)).to(device)
    labels = torch.tensor([[0, 1, 2, 1, -1, -2, 0, 1, 0], [0] * 8 + [-1]]).to(device)
    n_clusters = torch.tensor([3, 1]).to(device)
    arguments = (gradients, labels, n_clusters, 4, name, 2, 1.0, 0.3)
    whole = cluster_filter.pooled_weights(*arguments)
    tiled = cluster_filter.pooled_weights(*arguments, tile_cells=16)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=FILTER * float(gradients.abs().max()))


def test_pooled_weights_of_a_large_map(device):
    gradients = torch.randn(1, 1, 3, 56, 56, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([[0, -1, 0]])
    config = CFCAMConfig(sigma_range=1.0, diameter=5)
    pooled = cluster_filter.pooled_weights(
        gradients.to(device), labels.to(device), torch.tensor([1]).to(device), 1, "bilateral", 2, 5.0, 1.0
    )
    means = weighting.cluster_means(gradients, labels, 1)[0, 0]
    expected = filtering.filter_maps(means, config).mean()
    torch.testing.assert_close(
        pooled.cpu()[0, 0, 0], expected, rtol=0, atol=FILTER * float(means.abs().max())
    )
