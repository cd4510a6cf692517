"""Comparison with the edges of the image; the Sobel filter against OpenCV."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cfcam_gpu.metrics.edges import at_scale, edges, sobel
from cfcam_gpu.metrics.options import MetricOptions
from tests.helpers.metric_cases import pictures, tiny_case
from tests.helpers.tolerances import SIMILARITY

OPTIONS = MetricOptions()


def test_sobel_is_opencvs():
    images = pictures(3, 24)
    found = sobel(images)
    for image, edge_map in zip(images, found, strict=True):
        r, g, b = image.double().numpy()
        grey = 0.299 * r + 0.587 * g + 0.114 * b
        gx, gy = (
            cv2.Sobel(grey, cv2.CV_64F, *axis, ksize=3, borderType=cv2.BORDER_REPLICATE) / 8
            for axis in ((1, 0), (0, 1))
        )
        np.testing.assert_allclose(edge_map.numpy(), np.hypot(gx, gy), atol=1e-6)


def test_at_scale_averages_blocks_and_comes_back_to_the_size():
    maps = torch.zeros(1, 8, 8)
    maps[0, :4, :4] = torch.eye(4)
    found = at_scale(maps, 4)
    expected = F.interpolate(torch.tensor([[[[1.0, 0], [0, 0]]]]), (8, 8), mode="bilinear")[0]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(at_scale(maps, 1), maps)


@pytest.mark.parametrize("scale", [1, 4, 8])
def test_a_map_that_is_only_edges_is_found_at_any_scale(scale):
    case = tiny_case(size=64)
    values = edges(replace(case, heatmaps=at_scale(sobel(case.images), scale)), OPTIONS)
    for value in values.values():
        torch.testing.assert_close(value, torch.ones(3), atol=SIMILARITY, rtol=0)


def test_a_map_that_avoids_the_edges_does_not_resemble_them():
    case = tiny_case(size=64)
    edge_map = at_scale(sobel(case.images), 1)
    values = edges(replace(case, heatmaps=1 - edge_map), OPTIONS)
    assert values["edges_correlation"].max() < 0.1
    assert values["edges_ssim"].max() < 0.5


def test_where_edges_are_undefined():
    """Blank map, constant map, image of one colour; the faintest edge of an 8-bit image counts."""
    case = tiny_case(4, size=32)
    images, heatmaps = case.images.clone(), case.heatmaps.clone()
    heatmaps[0], heatmaps[1] = 0, 0.5
    images[2] = 0.3
    images[3] = 100 / 255
    images[3, :, 16:] = 101 / 255
    blank = torch.tensor([True, False, False, False])
    values = edges(replace(case, images=images, heatmaps=heatmaps, blank=blank), OPTIONS)
    for value in values.values():
        assert value.isnan().tolist() == [True, True, True, False]
