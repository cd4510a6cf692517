"""Masks of the objects in images: read from a file or drawn from a box, and fitted to the model's view."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from cfcam_gpu._utils.places.place import Place
from cfcam_gpu.errors import ImageError
from cfcam_gpu.images.decode import decoding_errors, image_formats, open_file
from cfcam_gpu.images.identify import what_it_is
from cfcam_gpu.images.preprocess import Preprocess
from cfcam_gpu.images.scaled import exif_orientation, turned_upright, upright_size

#: (x0, y0, x1, y1) in pixels of the upright image.
Box = tuple[float, float, float, float]

#: Pillow's modes whose last channel is opacity.
_WITH_ALPHA = ("LA", "RGBA")

#: Formats of Pillow's that lose detail. (JPEG 2000 may not, and does not ring as far.)
_LOSSY = ("JPEG", "MPO", "AVIF")

#: How much of a WebP file tells whether it is lossless.
_WEBP_HEAD = 1 << 16


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


def read_mask(path: Path | Place, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The mask (height, width) in an image file: true where a pixel is not 0.

    Opacity does not count, unless the colour is 0 everywhere or nowhere and only the opacity has a shape. In a
    file that was compressed with losses, whose edges ring, pixels count above half of the largest value. EXIF
    orientation is applied.

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
        with open_file(path) as stream, decoding_errors(), _opened(stream) as picture:
            _check_size(path, upright_size(picture)[:2], size)
            lossy = _is_lossy(picture, stream)
            picture.load()
            upright = turned_upright(picture, exif_orientation(picture))
            pixels = _shape(upright, lossy=lossy)
    except MaskError:
        raise
    except ImageError as error:
        raise MaskError(f"the mask {path} cannot be read: {error}") from (error.__cause__ or error)
    if not pixels.any():
        raise MaskError(f"the mask marks nothing of the image of {size[0]} by {size[1]} pixels")
    return pixels


@contextmanager
def _opened(stream: BinaryIO) -> Iterator[Image.Image]:
    try:
        picture = Image.open(stream, formats=image_formats())
    except UnidentifiedImageError as error:
        raise ImageError(what_it_is(stream)) from error
    with picture:
        yield picture


def _shape(picture: Image.Image, *, lossy: bool) -> npt.NDArray[np.bool_]:
    """Where the colour is not 0; where it is so everywhere or nowhere, where the opacity is not 0."""
    colour = picture.convert(picture.mode[:-1]) if picture.mode in _WITH_ALPHA else picture
    pixels = _not_zero(np.asarray(colour), lossy=lossy)
    if pixels.all() == pixels.any() and picture.has_transparency_data:
        opaque = _not_zero(np.asarray(picture.convert("RGBA"))[..., 3], lossy=lossy)
        if opaque.any() and not opaque.all():
            return opaque
    return pixels


def _not_zero(values: npt.NDArray[Any], *, lossy: bool) -> npt.NDArray[np.bool_]:
    pixels: npt.NDArray[np.bool_] = values > values.max(initial=0) / 2 if lossy else values != 0
    return pixels if pixels.ndim == 2 else np.any(pixels, axis=2, keepdims=True)[..., 0]


def _is_lossy(picture: Image.Image, stream: BinaryIO) -> bool:
    """Whether the pixels were compressed with losses, as those of every JPEG and most WebP files."""
    if picture.format != "WEBP":
        return picture.format in _LOSSY
    position = stream.tell()
    stream.seek(0)
    lossless = b"VP8L" in stream.read(_WEBP_HEAD)
    stream.seek(position)
    return not lossless


def _check_size(path: Path | Place, actual: tuple[int, int], expected: tuple[int, int]) -> None:
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
    picture = Image.fromarray(pixels.astype(np.uint8))
    return np.asarray(preprocess.resized(picture, Image.Resampling.NEAREST)) > 0
