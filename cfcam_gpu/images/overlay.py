"""Heatmaps as colours, over the image, and back in the image's own frame."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from cfcam_gpu.errors import ConfigError
from cfcam_gpu.images.colormaps import check_style

Pixels = npt.NDArray[np.uint8]


def colorize(heatmap: npt.ArrayLike, cmap: str = "inferno") -> Pixels:
    """A heatmap in colours.

    Args:
        heatmap: (H, W) float in [0, 1]; rounded to 256 steps.
        cmap: one of `colormaps.COLORMAPS`.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ConfigError: unknown colour map, not two-dimensional, or a value that is NaN or outside [0, 1].
    """
    check_style(cmap, 0)
    steps = np.rint(_checked(heatmap) * 255).astype(np.uint8)
    bgr = cv2.applyColorMap(steps, getattr(cv2, f"COLORMAP_{cmap.upper()}"))
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def overlay(image: npt.NDArray, heatmap: npt.ArrayLike, cmap: str = "inferno", alpha: float = 0.4) -> Pixels:
    """alpha · colour + (1 - alpha) · image, rounded to the nearest integer.

    Args:
        image: (H, W, 3) uint8 RGB.
        heatmap: (H, W) float in [0, 1].
        cmap: one of `colormaps.COLORMAPS`.
        alpha: share of the colour, 0 to 1.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ConfigError: as `colorize`; also alpha out of range, or image and heatmap of different sizes.
    """
    check_style(cmap, alpha)
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ConfigError(f"image must be (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")
    heatmap = _checked(heatmap)
    if image.shape[:2] != heatmap.shape:
        raise ConfigError(
            f"heatmap must have the image's size {image.shape[:2]}, got {heatmap.shape}; "
            "fit_heatmap brings it there"
        )
    return np.asarray(cv2.addWeighted(colorize(heatmap, cmap), alpha, image, 1 - alpha, 0), np.uint8)


def fit_heatmap(
    heatmap: npt.ArrayLike, box: tuple[float, float, float, float], width: int, height: int
) -> npt.NDArray[np.float32]:
    """Places the map of what the model saw into the original image; zeros where it saw nothing.

    Args:
        heatmap: (H, W) float in [0, 1], in the model's view.
        box: (left, top, right, bottom) of that view in pixels of the original image; may reach beyond it.
        width: the original image's width in pixels.
        height: the original image's height in pixels.

    Returns:
        (height, width) float32 in [0, 1]. Bilinear with half-pixel centres, as `cv2.resize` and
        `align_corners=False`; a pixel belongs to the box when its centre does.

    Raises:
        ConfigError: as `colorize`, or a box or size without area.
    """
    heatmap = _checked(heatmap)
    left, top, right, bottom = box
    if not (right > left and bottom > top and width > 0 and height > 0):
        raise ConfigError(f"box and image must have an area, got box {box} and {width} by {height} pixels")
    y0, y1, fy, inside_y = _taps(top, bottom, height, heatmap.shape[0])
    x0, x1, fx, inside_x = _taps(left, right, width, heatmap.shape[1])
    rows = heatmap[y0] + fy[:, None] * (heatmap[y1] - heatmap[y0])
    fitted = rows[:, x0] + fx * (rows[:, x1] - rows[:, x0])
    # Rounding may pass 1 by a unit in the last place.
    return np.clip(fitted * np.outer(inside_y, inside_x), 0, 1, dtype=np.float32)


def upsample_grid(grid: npt.NDArray[np.floating], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """A heatmap (H, W) float32 in [0, 1] from a map (h, w) at raw scale, zeros where that has no evidence.

    Bilinear with half-pixel centres, divided by its maximum: what `maps.upsample_and_normalise`
    does, without PyTorch.
    """
    peak = float(grid.max())
    if not peak > 0:
        return np.zeros(size, np.float32)
    h, w = size
    heatmap = fit_heatmap(grid / np.float32(peak), (0.0, 0.0, float(w), float(h)), w, h)
    return np.asarray(heatmap / heatmap.max(), np.float32)


def _taps(start: float, stop: float, n_out: int, n_in: int) -> tuple[npt.NDArray, ...]:
    """Per output pixel: the two cells around its centre, the second's share, whether the box holds it."""
    relative = (np.arange(n_out) + 0.5 - start) / (stop - start)
    position = np.clip(relative * n_in - 0.5, 0, n_in - 1)
    lower = np.floor(position).astype(np.intp)
    upper = np.minimum(lower + 1, n_in - 1)
    return lower, upper, (position - lower).astype(np.float32), (relative >= 0) & (relative <= 1)


def _checked(heatmap: npt.ArrayLike) -> npt.NDArray[np.float32]:
    array = np.asarray(heatmap)
    if array.ndim != 2 or array.size == 0:
        raise ConfigError(f"heatmap must be (H, W), got shape {array.shape}; pass one map at a time")
    array = array.astype(np.float32, copy=False)
    if not (array.min() >= 0 and array.max() <= 1):
        raise ConfigError(
            f"heatmap must lie in [0, 1], got values from {array.min():g} to {array.max():g}; "
            "divide it by its maximum"
        )
    return array
