"""The last step: heatmaps and the peaks that they were divided by."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cfcam_gpu.cfcam.maps import maps_of, over_maximum, upsample_and_normalise
from tests.helpers.features import upsampled_peak


@pytest.mark.parametrize("size", [(1, 1), (3, 4), (7, 9), (28, 30)])
def test_heatmap_and_peak_are_torchs_bilinear_over_its_maximum(size):
    grid = torch.rand(3, 2, 7, 5, generator=torch.Generator().manual_seed(0))
    grid[1, 1] = 0
    heatmap, peak = upsample_and_normalise(grid, size)
    upsampled = F.interpolate(grid, size=size, mode="bilinear", align_corners=False)
    assert torch.equal(peak, upsampled_peak(grid, size))
    assert peak[1, 1] == 0
    assert not heatmap[1, 1].any()
    torch.testing.assert_close(heatmap * peak[..., None, None], upsampled)
    assert ((heatmap.amax((2, 3)) == 1) | (peak == 0)).all()


def test_maps_at_their_own_size_are_over_their_maximum():
    grid = torch.rand(2, 1, 5, 9, generator=torch.Generator().manual_seed(0))
    maps = maps_of(grid, (5, 9))
    torch.testing.assert_close(maps.heatmap, over_maximum(grid))
    assert torch.equal(maps.peak, grid.amax((2, 3)))
    assert maps.clusters is None
