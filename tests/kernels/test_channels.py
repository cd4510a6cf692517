"""Statistics, dominant channels and columns against PyTorch's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from cfcam_gpu.cfcam.clustering import dominant_channels, most_clustered
from cfcam_gpu.config import EPS_SLACK
from cfcam_gpu.engines.triton_engine import _CODES, _NOT_FINITE
from cfcam_gpu.kernels import channels

#: (C,h,w): one channel, one cell, sizes around those of the blocks.
SHAPES = [(1, 1, 1), (2, 1, 1), (33, 5, 9), (63, 7, 7), (130, 1, 3)]


def features(shape: tuple[int, int, int], batch: int = 3, targets: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(sum(shape))
    activations = torch.randn(batch, *shape, generator=generator)
    return activations, torch.randn(batch, targets, *shape, generator=generator)


def split_of(
    device: str, activations: Tensor, gradients: Tensor, percentile: float | None = 75, **arguments: Any
) -> channels.Split:
    found = channels.statistics(activations.to(device), gradients.to(device))
    most = most_clustered(activations.shape[1], percentile)
    return channels.split(found, percentile, EPS_SLACK, most, _CODES, **arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_norms_means_and_largest_gradients(device, shape, dtype):
    activations, gradients = features(shape)
    activations = activations.to(dtype)
    norms, means, largest = channels.statistics(activations.to(device), gradients.to(device))
    expected = torch.linalg.vector_norm(activations.flatten(2), dim=2, dtype=torch.float64)
    torch.testing.assert_close(norms.cpu(), expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(means.cpu(), gradients.mean((3, 4)), rtol=0, atol=1e-6)
    assert torch.equal(largest.cpu().view(torch.float32), gradients.abs().amax((3, 4)))


@pytest.mark.parametrize("percentile", [0, 10, 75, 100, None])
@pytest.mark.parametrize("shape", SHAPES)
def test_dominant_channels_and_the_order_of_the_others(device, shape, percentile):
    """Channels with equal norms lie on the threshold together."""
    activations, gradients = features(shape)
    activations[1] = activations[1].round()
    activations[2, shape[0] // 3 :] = 0
    split = split_of(device, activations, gradients, percentile)
    dominant = dominant_channels(activations.flatten(2), percentile)
    assert torch.equal(split.labels.cpu(), torch.where(dominant, -2, -1))
    assert split.counts.tolist() == (~dominant).sum(1).tolist()
    for image, count in enumerate(split.counts.tolist()):
        assert split.order[image, :count].tolist() == (~dominant[image]).nonzero().flatten().tolist()
    assert split.status.tolist() == [0, 0, 0]


def test_the_status_of_an_image_is_its_first_problem(device):
    """In the order of `Problem`; a zero gradient of one target is one, a large finite value none."""
    activations, gradients = features((33, 3, 3), batch=8)
    activations[1, 5, 2, 2], gradients[1, 0, 0] = torch.nan, torch.inf
    activations[2, 32, 0, 0] = -torch.inf
    gradients[3, 1, 32, 2, 2] = torch.nan
    gradients[4, 1, 0, 0, 0] = -torch.inf
    gradients[5, 1] = 0
    activations[6] = 3e38
    gradients[7] = 1e-45
    out_of_range = torch.tensor([False, True, True, True, False, True, False, False], device=device)
    split = split_of(device, activations, gradients, out_of_range=out_of_range, zero_gradient=True)
    assert split.status.tolist() == [0, 1, 1, 2, 2, 3, 0, 0]
    assert (split.labels[1:5] == -2).all()
    assert split.counts[1:5].tolist() == [0] * 4
    assert split_of(device, activations, gradients, zero_gradient=True).status[5] == 4
    assert split_of(device, activations, gradients).status[5] == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_columns_are_the_clustered_channels_transposed(device, shape):
    activations, gradients = features(shape)
    activations[2, 0, 0, 0] = torch.nan
    split = split_of(device, activations, gradients, None)
    columns = channels.columns(activations.to(device), split, 64, _NOT_FINITE).cpu()
    rows = activations.flatten(2).mT
    rows[2] = 0
    assert torch.equal(columns[:, :, : shape[0]], rows)
    assert columns[:, :, shape[0] :].isnan().all()
    split = split_of(device, activations, gradients, 50)
    columns = channels.columns(activations.to(device), split, 32, _NOT_FINITE).cpu()
    for image, count in enumerate(split.counts.tolist()):
        chosen = split.order[image, :count].long().cpu()
        assert torch.equal(columns[image, :, :count], rows[image][:, chosen])
        assert columns[image, :, count:].isnan().all()
