"""Heatmaps against PyTorch's interpolation, and images that cannot be explained."""

from __future__ import annotations

import pytest
import torch

from cfcam_gpu.cfcam.maps import upsample_and_normalise
from cfcam_gpu.kernels.heatmaps import finish

#: Two products of float32 weights, in another order than PyTorch's.
INTERPOLATION = 1e-6


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((1, 1), (1, 1)),
        ((1, 1), (5, 7)),
        ((7, 7), (224, 224)),
        ((5, 9), (20, 18)),
        ((3, 14), (50, 33)),
        ((14, 14), (3, 5)),
        ((1, 6), (9, 100)),
    ],
)
def test_heatmaps_are_the_upsampled_grids_over_their_maxima(device, shape, size):
    """Sizes that are multiples, that are not, and that are smaller; the largest value is 1 exactly."""
    grid = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(0)).relu() * 1e3
    grid[1, 2] = 0
    status = torch.zeros(2, dtype=torch.int64, device=device)
    given = grid.clone().to(device)
    heatmap, peak, blank = (tensor.cpu() for tensor in finish(given, status, size, 5))
    expected, expected_peak = upsample_and_normalise(grid, size)
    torch.testing.assert_close(peak, expected_peak, rtol=INTERPOLATION, atol=0)
    torch.testing.assert_close(heatmap, expected, rtol=0, atol=INTERPOLATION)
    assert torch.equal(blank, grid.amax((2, 3)) <= 0)
    assert torch.equal(heatmap.amax((2, 3)), (peak > 0).float())
    assert torch.equal(given.cpu(), grid)
    assert status.tolist() == [0, 0]


@pytest.mark.parametrize("seed", range(5))
def test_the_peak_is_the_largest_output(device, seed):
    """Found at few of the outputs, for grids and sizes of any ratio."""
    generator = torch.Generator().manual_seed(seed)
    h, w, height, width = (int(n) for n in torch.randint(1, 40, (4,), generator=generator))
    grid = torch.rand(4, 1, h, w, generator=generator).to(device)
    status = torch.zeros(4, dtype=torch.int64, device=device)
    heatmap, peak, _ = finish(grid, status, (height, width), 5)
    expected, expected_peak = upsample_and_normalise(grid, (height, width))
    torch.testing.assert_close(peak, expected_peak, rtol=INTERPOLATION, atol=0)
    torch.testing.assert_close(heatmap, expected, rtol=0, atol=INTERPOLATION)


def test_images_with_a_problem_have_blank_maps(device):
    """One that has it already, one with NaN, and one with Inf for the second of its targets."""
    grid = torch.ones(4, 2, 3, 3, device=device)
    grid[1, 0, 2, 2], grid[2, 1, 0, 0], grid[3, 0] = torch.nan, torch.inf, 0
    status = torch.tensor([3, 0, 0, 0], device=device)
    heatmap, peak, blank = finish(grid, status, (6, 6), 5)
    assert status.tolist() == [3, 5, 5, 0]
    for image in range(3):
        assert not grid[image].any()
        assert not heatmap[image].any()
        assert not peak[image].any()
        assert blank[image].all()
    assert blank[3].tolist() == [True, False]
    assert peak[3].tolist() == [0, 1]
    assert (heatmap[3, 1] == 1).all()
