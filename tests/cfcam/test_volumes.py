"""CF-CAM's filters in three dimensions."""

from __future__ import annotations

import pytest
import torch

from cfcam_gpu.cfcam.filtering import FILTERS, filter_maps
from cfcam_gpu.cfcam.volumes import VOLUME_FILTERS, VolumeConfig, filter_volumes, volume_config
from cfcam_gpu.config import CFCAMConfig
from tests.helpers.volumes import filtered_volume


@pytest.mark.parametrize(
    ("name", "ball", "ranged"),
    [("bilateral", True, True), ("bilateral_square", False, True), ("gaussian", False, False)],
)
def test_filters_of_volumes_are_those_made_cell_by_cell(name: str, ball: bool, ranged: bool) -> None:  # noqa: FBT001
    maps = torch.randn(2, 3 * 4, 5, generator=torch.Generator().manual_seed(3)) * 0.2
    config = volume_config(CFCAMConfig(filter=name, sigma_space=1.5), 3)
    filtered = filter_maps(maps, config).view(2, 3, 4, 5)
    for one, wanted in zip(filtered, maps.view(2, 3, 4, 5), strict=True):
        by_cells = filtered_volume(wanted, config, ball=ball, ranged=ranged)
        torch.testing.assert_close(one.double(), by_cells, atol=1e-6, rtol=0)


def test_relative_filter_follows_the_scale() -> None:
    maps = torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(3))
    config = VolumeConfig(filter="bilateral_relative", sigma_range=1.0, depth=2)
    torch.testing.assert_close(filter_volumes(1000 * maps, config), 1000 * filter_volumes(maps, config))


def test_the_table_lacks_only_the_published_filter() -> None:
    assert set(FILTERS) - set(VOLUME_FILTERS) == {"upstream"}
