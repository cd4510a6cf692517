"""The pictures show the numbers: colours, blending and placement are checked pixel by pixel."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from cfcam_gpu.errors import ConfigError
from cfcam_gpu.images.colormaps import COLORMAPS
from cfcam_gpu.images.overlay import colorize, draw_overlay, fit_heatmap

RAMP = np.linspace(0, 1, 256, dtype=np.float32)[None]


@pytest.mark.parametrize(
    ("cmap", "low", "high"),
    [
        ("inferno", (0, 0, 4), (252, 255, 164)),
        ("viridis", (68, 1, 84), (253, 231, 37)),
        ("jet", (0, 0, 128), (128, 0, 0)),
        ("hot", (0, 0, 0), (255, 255, 255)),
    ],
)
def test_the_ends_of_a_colour_map_are_rgb_not_bgr(cmap, low, high):
    colours = colorize(RAMP, cmap)
    np.testing.assert_allclose(colours[0, 0], low, atol=2)
    np.testing.assert_allclose(colours[0, -1], high, atol=2)


@pytest.mark.parametrize("cmap", COLORMAPS)
def test_every_colour_map_works_and_tells_values_apart(cmap):
    colours = colorize(RAMP, cmap)
    assert colours.shape == (1, 256, 3)
    assert colours.dtype == np.uint8
    assert len(np.unique(colours[0], axis=0)) > 200


def test_values_round_to_the_nearest_of_256_steps():
    np.testing.assert_array_equal(colorize([[0.4999 / 255, 0.5001 / 255]])[0], colorize(RAMP)[0, :2])


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.4, 1.0])
def test_overlay_is_the_rounded_weighted_sum(alpha):
    image = np.random.default_rng(0).integers(0, 256, (37, 256, 3), dtype=np.uint8)
    heatmap = np.repeat(RAMP, 37, axis=0)
    exact = alpha * colorize(heatmap, "jet").astype(np.float64) + (1 - alpha) * image
    result = draw_overlay(image, heatmap, "jet", alpha)
    assert result.dtype == np.uint8
    # Half a step is rounding; the rest allows for ties (alpha 0.25) and float32 products.
    assert np.abs(result - exact).max() <= 0.5 + 1e-4


def test_the_default_is_40_percent_inferno_over_60_percent_image():
    image = np.full((1, 1, 3), 200, np.uint8)
    np.testing.assert_array_equal(draw_overlay(image, [[1.0]])[0, 0], [221, 222, 186])


@pytest.mark.parametrize("size", [(31, 17), (7, 5), (3, 100)])
def test_a_full_view_is_resized_as_opencv_does(size):
    heatmap = np.random.default_rng(1).random((7, 9), dtype=np.float32)
    width, height = size
    fitted = fit_heatmap(heatmap, (0, 0, width, height), width, height)
    expected = cv2.resize(heatmap, size, interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(fitted, expected, atol=1e-6)


def test_outside_the_view_is_zero_and_inside_is_in_place():
    fitted = fit_heatmap(np.array([[0.25, 0.75]]), (2, 1, 6, 3), width=8, height=4)
    expected = np.zeros((4, 8), np.float32)
    expected[1:3, 2:6] = [0.25, 0.375, 0.625, 0.75]
    np.testing.assert_allclose(fitted, expected, atol=1e-7)


def test_a_view_reaching_beyond_the_image_is_cut():
    whole = fit_heatmap(np.array([[0.0, 1.0]]), (0, 0, 8, 2), width=8, height=2)
    np.testing.assert_allclose(
        fit_heatmap(np.array([[0.0, 1.0]]), (-2, 0, 6, 2), width=5, height=2), whole[:, 2:7], atol=1e-7
    )


def test_a_fractional_view_keeps_pixels_whose_centre_it_holds():
    fitted = fit_heatmap(np.ones((3, 3)), (0.6, 0, 2.5, 1), width=4, height=1)
    np.testing.assert_array_equal(fitted, [[0, 1, 1, 0]])


def test_fitted_maps_stay_valid_for_colorize():
    heatmap = np.random.default_rng(2).random((13, 11), dtype=np.float32) ** 0.01
    heatmap /= heatmap.max()
    assert colorize(fit_heatmap(heatmap, (0.3, 0.2, 97.7, 83.1), 101, 89)).shape == (89, 101, 3)


IMAGE = np.zeros((2, 2, 3), np.uint8)
GOOD = np.zeros((2, 2), np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: colorize(GOOD, "rainbows"), r"unknown colour map 'rainbows'; choose one of: inferno, "),
        (lambda: colorize(np.zeros((1, 2, 2))), r"heatmap must be \(H, W\), got shape \(1, 2, 2\)"),
        (lambda: colorize(np.zeros((0, 2))), r"heatmap must be \(H, W\), got shape \(0, 2\)"),
        (lambda: colorize([[0.0, 1.5]]), r"heatmap must lie in \[0, 1\], got values from 0 to 1\.5"),
        (lambda: colorize([[-0.1, 0.5]]), r"heatmap must lie in \[0, 1\], got values from -0\.1 to 0\.5"),
        (lambda: colorize([[float("nan"), 0.5]]), r"heatmap must lie in \[0, 1\], got values from nan"),
        (lambda: draw_overlay(IMAGE, GOOD, alpha=1.2), r"alpha must be a number from 0 .* got 1\.2"),
        (lambda: draw_overlay(IMAGE, GOOD, alpha=float("nan")), r"alpha must be a number from 0 .* got nan"),
        (lambda: draw_overlay(IMAGE.astype(float), GOOD), r"image must be .* got \(2, 2, 3\) float64"),
        (lambda: draw_overlay(IMAGE[..., 0], GOOD), r"image must be .* got \(2, 2\) uint8"),
        (lambda: draw_overlay(IMAGE, np.zeros((2, 3))), r"the image's size \(2, 2\), got \(2, 3\)"),
        (lambda: fit_heatmap(GOOD, (2, 0, 2, 2), 4, 4), r"box and image must have an area"),
        (lambda: fit_heatmap(GOOD, (0, 0, 2, 2), 0, 4), r"box and image must have an area"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
