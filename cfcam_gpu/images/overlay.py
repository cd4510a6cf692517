"""Heatmaps as pictures: coloured, fitted to the original image, and blended over it."""

from __future__ import annotations

import functools

import cv2
import numpy as np
import numpy.typing as npt

from cfcam_gpu.errors import ConfigError
from cfcam_gpu.images.colormaps import check_style

Pixels = npt.NDArray[np.uint8]


def colorize(heatmap: npt.ArrayLike, cmap: str = "inferno") -> Pixels:
    """A heatmap as an RGB picture.

    Args:
        heatmap: (H, W) float in [0, 1]; rounded to 256 steps.
        cmap: one of `colormaps.COLORMAPS`.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ConfigError: unknown colour map, not two-dimensional, or a value that is NaN or outside [0, 1].

    Example:
        >>> colorize([[0.0, 1.0]], "hot").tolist()
        [[[0, 0, 0], [255, 255, 255]]]
    """
    check_style(cmap, 0)
    steps = cv2.convertScaleAbs(_checked(heatmap), alpha=255)
    return np.asarray(cv2.applyColorMap(steps, _colours(cmap)), np.uint8)


@functools.cache
def _colours(cmap: str) -> Pixels:
    """(256, 1, 3) RGB of a colour map."""
    ramp = np.arange(256, dtype=np.uint8)[:, None]
    bgr = cv2.applyColorMap(ramp, getattr(cv2, f"COLORMAP_{cmap.upper()}"))
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def draw_overlay(
    image: npt.NDArray, heatmap: npt.ArrayLike, cmap: str = "inferno", alpha: float = 0.4
) -> Pixels:
    """Blends a coloured heatmap over an image: alpha · colour + (1 - alpha) · image, rounded.

    Args:
        image: (H, W, 3) uint8 RGB.
        heatmap: (H, W) float in [0, 1].
        cmap: one of `colormaps.COLORMAPS`.
        alpha: weight of the colour, 0 to 1.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ConfigError: as `colorize`; also alpha out of range, or image and heatmap of different sizes.

    Example:
        >>> draw_overlay(np.full((1, 1, 3), 200, np.uint8), [[1.0]], "hot", alpha=0.5).tolist()
        [[[228, 228, 228]]]
    """
    check_style(cmap, alpha)
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ConfigError(f"image must be (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")
    heatmap = _checked(heatmap)
    if image.shape[:2] != heatmap.shape:
        raise ConfigError(
            f"heatmap must have the image's size {image.shape[:2]}, got {heatmap.shape}; "
            "enlarge it with fit_heatmap"
        )
    return np.asarray(cv2.addWeighted(colorize(heatmap, cmap), alpha, image, 1 - alpha, 0), np.uint8)


def fit_heatmap(
    heatmap: npt.ArrayLike, box: tuple[float, float, float, float], width: int, height: int
) -> npt.NDArray[np.float32]:
    """Enlarges a heatmap of the model's view to the original image; zeros where the model saw nothing.

    Args:
        heatmap: (H, W) float in [0, 1], of the part of the image that the model sees.
        box: (left, top, right, bottom) of that part in pixels of the original image (see
            `Preprocess.visible_box`); may reach beyond the image.
        width: the original image's width in pixels.
        height: the original image's height in pixels.

    Returns:
        (height, width) float32 in [0, 1]. Bilinear with half-pixel centres, as `cv2.resize` and
        `align_corners=False`; a pixel belongs to the box when its centre does.

    Raises:
        ConfigError: as `colorize`, or a box or size without area.

    Example:
        >>> fit_heatmap([[0.25, 1.0]], box=(1, 0, 3, 1), width=4, height=1).tolist()
        [[0.0, 0.25, 1.0, 0.0]]
    """
    heatmap = _checked(heatmap)
    left, top, right, bottom = box
    if not (right > left and bottom > top and width > 0 and height > 0):
        raise ConfigError(f"box and image must have an area, got box {box} and {width} by {height} pixels")
    y0, y1, fy, inside_y = _taps(top, bottom, height, heatmap.shape[0])
    x0, x1, fx, inside_x = _taps(left, right, width, heatmap.shape[1])
    # Along the rows first, while there are few: to pick columns takes longer than to copy rows.
    columns = _between(heatmap.take(x0, 1), heatmap.take(x1, 1), fx)
    fitted = _between(columns.take(y0, 0), columns.take(y1, 0), fy[:, None])
    if not inside_y.all():
        fitted[~inside_y] = 0
    if not inside_x.all():
        fitted[:, ~inside_x] = 0
    # Rounding may pass 1 by a unit in the last place.
    return np.clip(fitted, 0, 1, out=fitted)


def upsample_grid(grid: npt.NDArray[np.floating], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """The heatmap of a stored grid, as `maps.upsample_and_normalise` computes it, without PyTorch.

    Args:
        grid: (h, w) float, the saliency map at the layer's resolution, at raw scale.
        size: (H, W) of the heatmap.

    Returns:
        (H, W) float32 in [0, 1]: bilinear with half-pixel centres, divided by its maximum; zeros where
        no value of the grid is above 0.

    Example:
        >>> upsample_grid(np.array([[0.0, 4.0]], np.float32), (1, 4)).tolist()
        [[0.0, 0.25, 0.75, 1.0]]
    """
    peak = float(grid.max())
    if not peak > 0:
        return np.zeros(size, np.float32)
    h, w = size
    heatmap = fit_heatmap(grid / np.float32(peak), (0.0, 0.0, float(w), float(h)), w, h)
    return np.asarray(heatmap / heatmap.max(), np.float32)


def _between(
    low: npt.NDArray[np.float32], high: npt.NDArray[np.float32], weight: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """low + weight · (high - low); both are overwritten."""
    high -= low
    high *= weight
    low += high
    return low


def _taps(start: float, stop: float, n_out: int, n_in: int) -> tuple[npt.NDArray, ...]:
    """For each output pixel along an axis: the two cells around its centre, the weight of the second one, and
    whether the centre is in the box from `start` to `stop`.
    """
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
