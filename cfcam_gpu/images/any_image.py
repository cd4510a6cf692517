"""Pictures as people hold them (PIL images, arrays and tensors of several shapes and types), and overlays on them."""

from __future__ import annotations

from os import PathLike
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from cfcam_gpu.errors import ConfigError
from cfcam_gpu.images.overlay import Pixels, draw_overlay, fit_heatmap

#: Pillow's modes of more than 8 bits; its conversion to RGB would cut their values off at 255.
_WIDE_MODES = ("I", "F")


def overlay(image: Any, heatmap: Any, cmap: str = "inferno", alpha: float = 0.4) -> Pixels:
    """Blends a heatmap over an image, whatever holds them and whatever their sizes; the image's size is the result's.

    Args:
        image: a PIL image, an array or a tensor: (H,W), (H,W,C) or (C,H,W) with 1, 3 or 4 channels, uint8, or
            floating-point in [0, 1]. Transparency is left out.
        heatmap: (h,w) array or tensor in [0, 1], enlarged to the image.
        cmap: one of `COLORMAPS`.
        alpha: weight of the colour, 0 to 1.

    Returns:
        (H,W,3) uint8 RGB, on the CPU.

    Raises:
        ConfigError: a shape, type or range that is none of these.

    Example:
        >>> image = np.full((4, 6, 3), 0.5, np.float32)
        >>> overlay(image, np.eye(2)).shape
        (4, 6, 3)
    """
    pixels = rgb_pixels(image)
    height, width = pixels.shape[:2]
    values = as_array(heatmap)
    if values.ndim == 3 and values.shape[0] == 1:
        values = values[0]
    if values.ndim == 2 and values.shape != (height, width):
        values = fit_heatmap(values, (0.0, 0.0, float(width), float(height)), width, height)
    return draw_overlay(pixels, values, cmap, alpha)


def rgb_pixels(image: Any) -> Pixels:
    """(H,W,3) uint8 RGB of an image as `overlay` takes it.

    Raises:
        ConfigError: as `overlay`.

    Example:
        >>> rgb_pixels(np.ones((1, 2, 2), np.float32)).tolist()
        [[[255, 255, 255], [255, 255, 255]], [[255, 255, 255], [255, 255, 255]]]
    """
    if is_picture_of_8_bits(image):
        return np.asarray(image.convert("RGB"), np.uint8)
    if isinstance(image, (str, PathLike)):
        raise ConfigError(f"image must be a picture, got the path {str(image)!r}; pass PIL.Image.open(path)")
    pixels = uint8_pixels(channels_last(as_array(image)))
    if pixels.shape[2] == 3:
        return pixels
    return np.ascontiguousarray(
        cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB) if pixels.shape[2] == 1 else pixels[..., :3]
    )


def is_picture_of_8_bits(image: Any) -> bool:
    """Whether this is a PIL image that its conversion to RGB leaves as it looks.

    Example:
        >>> from PIL import Image
        >>> [is_picture_of_8_bits(Image.new(mode, (1, 1))) for mode in ("RGB", "P", "I;16", "F")]
        [True, True, False, False]
    """
    return hasattr(image, "convert") and not image.mode.startswith(_WIDE_MODES)


def as_array(values: Any) -> npt.NDArray[Any]:
    """An array of an array or tensor on any device, with or without a graph.

    Example:
        >>> as_array([[0.0, 1.0]]).shape
        (1, 2)
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values
        values = values.numpy()
    return np.asarray(values)


def channels_last(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """An image (H,W), (H,W,C) or (C,H,W) as (H,W,C). Raises ConfigError as `overlay`.

    Example:
        >>> channels_last(np.zeros((3, 5, 7))).shape
        (5, 7, 3)
    """
    if pixels.ndim == 2:
        return pixels[..., None]
    if pixels.ndim == 3 and pixels.shape[2] in (1, 3, 4):
        return pixels
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4):
        return np.ascontiguousarray(pixels.transpose(1, 2, 0))
    raise ConfigError(
        f"image must be (H,W), (H,W,C) or (C,H,W) with 1, 3 or 4 channels, got shape {pixels.shape}; "
        "pass one image at a time"
    )


def uint8_pixels(pixels: npt.NDArray[Any]) -> Pixels:
    """Pixels of uint8, or of floating-point values in [0, 1], as uint8. Raises ConfigError as `overlay`.

    Example:
        >>> uint8_pixels(np.array([0.0, 0.5, 1.0])).tolist()
        [0, 128, 255]
    """
    if pixels.dtype == np.uint8:
        return pixels
    if not np.issubdtype(pixels.dtype, np.floating):
        raise ConfigError(
            f"image must be uint8, or floating-point in [0, 1], got {pixels.dtype}; divide it by its largest value"
        )
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 1):
        raise ConfigError(
            f"a floating-point image must lie in [0, 1], got values from {low:g} to {high:g}; divide by 255, or "
            "undo the normalisation"
        )
    return np.rint(pixels * 255).astype(np.uint8)
