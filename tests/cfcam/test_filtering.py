"""Filters against OpenCV, kornia and the reference's float64 loops."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from kornia.filters import bilateral_blur, gaussian_blur2d
from scipy.ndimage import gaussian_filter

from bench.device_ops import counted
from cfcam_gpu import CFCAMConfig
from cfcam_gpu.cfcam import reference
from cfcam_gpu.cfcam.filtering import CHUNK_BYTES, filter_maps
from cfcam_gpu.config import FILTERS
from tests.helpers.tolerances import FILTER

SHAPES = [(1, 1), (1, 6), (6, 1), (2, 2), (5, 9), (7, 7), (14, 14), (28, 20)]
SCALES = [1e-9, 1e-3, 0.3, 50.0]


def maps(shape: tuple[int, int], scale: float) -> torch.Tensor:
    return scale * torch.randn(5, *shape, generator=torch.Generator().manual_seed(sum(shape)))


def assert_close(filtered: np.ndarray, expected: np.ndarray, inputs: torch.Tensor) -> None:
    np.testing.assert_allclose(filtered, expected, rtol=0, atol=FILTER * float(inputs.abs().max()))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FILTERS)
def test_each_filter_agrees_with_its_reference(name, shape, scale):
    inputs, config = maps(shape, scale), CFCAMConfig(filter=name)
    filtered = filter_maps(inputs, config).numpy()
    for before, after in zip(inputs.double().numpy(), filtered, strict=True):
        assert_close(after, reference.FILTERS[name](before, config), inputs)


@pytest.mark.parametrize("diameter", [3, 5, 9])
@pytest.mark.parametrize("shape", [(5, 9), (7, 7), (14, 14)])
def test_bilateral_is_opencvs_on_every_path(shape, diameter):
    inputs = maps(shape, 0.3)
    config = CFCAMConfig(diameter=diameter, sigma_space=2.0, sigma_range=0.2)
    clamped = min(diameter, 2 * min(shape) - 1)
    for before, after in zip(inputs.numpy(), filter_maps(inputs, config).numpy(), strict=True):
        expected = cv2.bilateralFilter(before, clamped, 0.2, 2.0, borderType=cv2.BORDER_REFLECT_101)
        assert_close(after, expected, inputs)
        assert_close(reference.bilateral(before.astype(np.float64), config), expected, inputs)


def test_gaussian_is_kornias():
    inputs = maps((9, 7), 0.3)
    expected = gaussian_blur2d(inputs[:, None], (5, 5), (2.0, 2.0))[:, 0]
    filtered = filter_maps(inputs, CFCAMConfig(filter="gaussian", diameter=5, sigma_space=2.0))
    assert_close(filtered.numpy(), expected.numpy(), inputs)


@pytest.mark.parametrize("name", FILTERS)
def test_no_filter_convolves_or_copies_numbers_to_the_device(name):
    """A convolution may run in TF32, and the host waits for numbers that it copies."""
    counts = counted(lambda: filter_maps(torch.zeros(2, 9, 7, device="meta"), CFCAMConfig(filter=name)))
    assert not [operation for operation in counts.places if "conv" in operation]
    assert counts.waits == counts.to_device == 0


def test_bilateral_square_is_kornias():
    inputs = maps((9, 7), 0.3)
    expected = bilateral_blur(inputs[:, None], (5, 5), 0.2, (2.0, 2.0))[:, 0]
    filtered = filter_maps(
        inputs, CFCAMConfig(filter="bilateral_square", diameter=5, sigma_space=2.0, sigma_range=0.2)
    )
    assert_close(filtered.numpy(), expected.numpy(), inputs)


def test_gaussian_is_scipys():
    inputs = maps((9, 9), 0.3)
    filtered = filter_maps(inputs, CFCAMConfig(filter="gaussian", diameter=9, sigma_space=1.5)).numpy()
    for before, after in zip(inputs.double().numpy(), filtered, strict=True):
        assert_close(after, gaussian_filter(before, 1.5, mode="mirror", radius=4), inputs)


@pytest.mark.parametrize("name", ["bilateral", "bilateral_square", "gaussian", "none"])
def test_a_constant_map_passes_unchanged(name):
    """At a head with global average pooling the gradient is constant, so CF-CAM's filter must not act there."""
    inputs = torch.full((2, 7, 7), -3e-4)
    torch.testing.assert_close(filter_maps(inputs, CFCAMConfig(filter=name)), inputs, rtol=1e-6, atol=0)


def test_windows_wider_than_the_map_are_clamped_to_what_reflection_allows():
    assert CFCAMConfig().radius(28, 28) == 8  # OpenCV's rule: round(1.5 * 5)
    assert CFCAMConfig().radius(7, 5) == 4
    assert CFCAMConfig(diameter=3).radius(7, 7) == 1
    assert CFCAMConfig().radius(1, 9) == 0


def test_chunks_do_not_change_the_result(monkeypatch):
    inputs, config = maps((7, 7), 0.3), CFCAMConfig()
    whole = filter_maps(inputs, config)
    assert inputs.numel() * 169 * 4 < CHUNK_BYTES
    monkeypatch.setattr("cfcam_gpu.cfcam.filtering.CHUNK_BYTES", 1)
    torch.testing.assert_close(filter_maps(inputs, config), whole, rtol=1e-6, atol=1e-7)
    assert filter_maps(inputs[:0], config).shape == (0, 7, 7)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e4])
def test_the_relative_filter_does_not_depend_on_the_gradients_scale(scale):
    """The absolute one does: on maps far below sigma_range it no longer keeps edges."""
    maps = torch.randn(3, 9, 9, generator=torch.Generator().manual_seed(0))
    config = CFCAMConfig(filter="bilateral_relative", sigma_space=2.0, sigma_range=1.0)
    expected = filter_maps(maps, config) * scale
    torch.testing.assert_close(filter_maps(maps * scale, config), expected, rtol=1e-4, atol=1e-5 * scale)
