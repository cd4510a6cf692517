"""Masks of the objects in images: read from a file or drawn from a box, and fitted to the model's view."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from cfcam_gpu._utils.messages import first_line
from cfcam_gpu.errors import ImageError
from cfcam_gpu.images.preprocess import Preprocess

#: (x0, y0, x1, y1) in pixels of the upright image.
Box = tuple[float, float, float, float]

#: Pillow's modes whose last channel is opacity.
_WITH_ALPHA = ("LA", "RGBA")


class MaskError(ImageError):
    """A mask that cannot be read or does not fit its image; the message is the reason."""


def parse_box(text: str) -> Box:
    """The box that a text like "x0,y0,x1,y1" gives; brackets around it are allowed.

    Raises:
        ValueError: no such box; the message completes a sentence that begins with the text.

    Example:
        >>> parse_box("[10, 20, 30.5, 40]")
        (10.0, 20.0, 30.5, 40.0)
    """
    try:
        x0, y0, x1, y1 = (float(part) for part in text.strip("[]() ").split(","))
    except ValueError:
        x0 = y0 = x1 = y1 = math.nan
    if not (all(map(math.isfinite, (x0, y0, x1, y1))) and x0 < x1 and y0 < y1):
        raise ValueError("must be x0,y0,x1,y1 in pixels with x0 < x1 and y0 < y1")
    return x0, y0, x1, y1


def box_text(box: Box) -> str:
    """The box as `parse_box` reads it.

    Example:
        >>> box_text((10.0, 20.0, 30.5, 40.0))
        '10,20,30.5,40'
    """
    return ",".join(f"{corner:.10g}" for corner in box)


def draw_box(box: Box, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The mask (height, width) of an image of that size: true for pixels whose centre is in the box.

    Args:
        size: (width, height) of the image.

    Raises:
        MaskError: no pixel is in the box.

    Example:
        >>> draw_box((1, 0, 3, 1), (4, 2)).astype(int).tolist()
        [[0, 1, 1, 0], [0, 0, 0, 0]]
    """
    x, y = (np.arange(side) + 0.5 for side in size)
    x0, y0, x1, y1 = box
    pixels: npt.NDArray[np.bool_] = ((y >= y0) & (y < y1))[:, None] & ((x >= x0) & (x < x1))
    if not pixels.any():
        raise MaskError(f"the box {box_text(box)} lies outside of the image of {size[0]} by {size[1]} pixels")
    return pixels


def read_mask(path: Path, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The mask (height, width) in an image file: true where a pixel is not 0 (opacity does not count).

    Args:
        size: (width, height) of the upright image, which the mask must have as well.

    Raises:
        MaskError: the file cannot be read, has another size, or all of its pixels are 0.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "mask.png"
        ...     Image.fromarray(np.array([[0, 255], [0, 0]], np.uint8)).save(path)
        ...     read_mask(path, size=(2, 2)).tolist()
        [[False, True], [False, False]]
    """
    try:
        with Image.open(path) as picture:
            _check_size(path, picture.size, size)
            opaque = picture.convert(picture.mode[:-1]) if picture.mode in _WITH_ALPHA else picture
            values = np.asarray(opaque)
    except MaskError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise MaskError(f"the mask {path} cannot be read: {reason}") from error
    pixels = values != 0 if values.ndim == 2 else (values != 0).any(2)
    if not pixels.any():
        raise MaskError(f"the mask marks nothing of the image of {size[0]} by {size[1]} pixels")
    return pixels


def _check_size(path: Path, actual: tuple[int, int], expected: tuple[int, int]) -> None:
    """Before the pixels are decoded, so that a wrong file cannot use much memory."""
    if actual != expected:
        raise MaskError(
            f"the mask {path} has {actual[0]} by {actual[1]} pixels, its image {expected[0]} by "
            f"{expected[1]}; masks must have the size of the upright image"
        )


def mask_view(pixels: npt.NDArray[np.bool_], preprocess: Preprocess) -> npt.NDArray[np.bool_]:
    """The mask of what the model sees: cropped and resized as `preprocess.view` does with the image.

    Args:
        pixels: (height, width) bool, of the upright image.

    Returns:
        (H, W) bool at the model's input size; each pixel is the nearest one of `pixels`.

    Example:
        >>> squash = Preprocess((1, 2), mean=(0, 0, 0), std=(1, 1, 1))
        >>> mask_view(np.array([[True, True, False, False]] * 3), squash).tolist()
        [[True, False]]
    """
    height, width = preprocess.size
    box = preprocess.visible_box(pixels.shape[1], pixels.shape[0])
    picture = Image.fromarray(pixels.astype(np.uint8))
    return np.asarray(picture.resize((width, height), Image.Resampling.NEAREST, box)) > 0
