"""The weighted sum of the activations against the product in PyTorch."""

from __future__ import annotations

import pytest
import torch

from cfcam_gpu.cfcam import weighting
from cfcam_gpu.kernels import weighted_sum

#: float32 sums over some hundred channels in another order, relative to the largest value.
SUM = 1e-5


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((1, 1, 1, 1), torch.float32),
        ((2, 130, 7, 7), torch.float32),
        ((1, 260, 3, 14), torch.bfloat16),
        ((2, 63, 5, 9), torch.float16),
    ],
)
def test_weighted_sum_is_the_activation_map(device, shape, dtype):
    """float16 and bfloat16 activations are summed in float32."""
    generator = torch.Generator().manual_seed(2)
    activations = torch.randn(shape, generator=generator).to(dtype)
    weights = torch.randn(shape[0], 3, shape[1], generator=generator)
    grid = weighted_sum.weighted_sum(activations.to(device), weights.to(device)).cpu()
    expected = weighting.activation_map(activations.float(), weights)
    assert grid.dtype == torch.float32
    torch.testing.assert_close(grid, expected, rtol=0, atol=SUM * max(1.0, float(expected.max())))
    small = weighted_sum.weighted_sum(activations.to(device), weights.to(device), channels=16, cells=16)
    torch.testing.assert_close(small.cpu(), expected, rtol=0, atol=SUM * max(1.0, float(expected.max())))


def test_weighted_sum_does_not_hide_nan(device):
    activations = torch.tensor([1.0, torch.nan]).view(1, 1, 1, 2).to(device)
    grid = weighted_sum.weighted_sum(activations, -torch.ones(1, 1, 1, device=device)).flatten()
    assert grid[0] == 0
    assert grid[1].isnan()
