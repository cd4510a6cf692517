"""Images of more than 8 bits per channel, reduced to RGB of 8 bits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from cfcam_gpu.errors import ImageError
from cfcam_gpu.images.gray_range import GrayRange, Reduced, narrow_warning, range_of, to_picture
from cfcam_gpu.images.read_options import ReadOptions
from cfcam_gpu.images.scaled import turned_upright
from cfcam_gpu.images.tiff import TiffValues, is_unsigned_32, pillow_misreads, read_tiff

#: A TIFF tag.
_BITS = 258


class WideImage(NamedTuple):
    """An RGB image (of mode F with `ReadOptions.fine_gray`), what was done to get it, and a warning (None: none)."""

    image: Image.Image
    steps: list[str]
    warning: str | None


def is_wide(image: Image.Image) -> bool:
    """Whether an opened image has 16 bits per channel and several channels, or is a TIFF that Pillow misreads."""
    if isinstance(image, TiffImageFile):
        bits = max(np.atleast_1d(image.tag_v2.get(_BITS, 1)))
        return bool(bits > 8 and image.mode in ("RGB", "RGBA", "LA")) or pillow_misreads(image)
    if isinstance(image, PngImageFile) and image.tile:
        return str(image.tile[0].args).endswith(";16B") and image.mode in ("RGB", "RGBA", "LA")
    return False


def reduced_to_rgb(
    image: Image.Image, stream: BinaryIO, gray: GrayRange | None, options: ReadOptions
) -> WideImage:
    """The RGB image of an opened file of more than 8 bits per channel, not turned upright yet.

    Args:
        image: not loaded yet.
        stream: the file that it was opened from.
        gray: the range of a gray image; None: it is in colour.
    """
    if isinstance(image, TiffImageFile) and pillow_misreads(image):
        return _tiff_image(read_tiff(stream, options.max_pixels, image.tell()), options)
    if gray is not None:
        image.load()
        transparent = image.info.get("transparency")  # the one transparent value of a PNG, or None
        mask = None if transparent is None else np.asarray(image) == transparent
        # The array is a copy of a large image's values, which is gone before the RGB image is made.
        reduced = gray.reduced(_values(image), options.value_range, rounded=not options.fine_gray)
        return _gray(reduced, mask)
    if options.value_range is None:
        return _pillows_8_bits(image)
    return _colour(_colour_values(image, stream, options), GrayRange(0, 65535, "16-bit", ""), options)


def _values(image: Image.Image) -> npt.NDArray[Any]:
    """The values of a loaded gray image. Pillow keeps unsigned ones of 32 bits as signed."""
    values: npt.NDArray[Any] = np.asarray(image)
    return values.view(np.uint32) if isinstance(image, TiffImageFile) and is_unsigned_32(image) else values


def load_tiff(stream: BinaryIO, options: ReadOptions) -> WideImage:
    """The upright image of a TIFF that Pillow does not read; errors as for `read_tiff`."""
    tiff = read_tiff(stream, options.max_pixels)
    image, steps, warning = _tiff_image(tiff, options)
    return WideImage(turned_upright(image, tiff.orientation), [*tiff.steps, *steps], warning)


def to_rgb(image: Image.Image) -> Image.Image:
    """A loaded image in RGB; transparent pixels are composited over white.

    Example:
        >>> to_rgb(Image.new("RGBA", (1, 1), (255, 0, 0, 0))).getpixel((0, 0))
        (255, 255, 255)
    """
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    # An RGB photo is not copied: for large ones that would take longer than everything else here.
    return image if image.mode == "RGB" else image.convert("RGB")


def _tiff_image(tiff: TiffValues, options: ReadOptions) -> WideImage:
    wide = replace(range_of(tiff.values.dtype), inverted=tiff.inverted)
    if tiff.values.ndim == 2:
        return _gray(wide.reduced(tiff.values, options.value_range, rounded=not options.fine_gray))
    return _colour(tiff.values, wide, options)


def _gray(reduced: Reduced, transparent: npt.NDArray[np.bool_] | None = None) -> WideImage:
    if transparent is not None:
        reduced.pixels[transparent] = 255
    return WideImage(to_picture(reduced.pixels), reduced.steps, reduced.warning)


def _colour(values: npt.NDArray[Any], wide: GrayRange, options: ReadOptions) -> WideImage:
    """(height, width, channels) with 2 (gray, opacity), 3 or 4 (RGB, opacity) channels; opacity is over white."""
    colours = 3 if values.shape[2] > 2 else 1
    reduced = wide.reduced(values[..., :colours], options.value_range)
    rgb = Image.fromarray(np.broadcast_to(reduced.pixels, (*values.shape[:2], 3)).copy())
    if values.shape[2] > colours:
        opacity = Image.fromarray(replace(wide, inverted=False).to_8_bit(values[..., -1]))
        rgb = Image.composite(rgb, Image.new("RGB", rgb.size, "white"), opacity)
    return WideImage(rgb, reduced.steps, reduced.warning)


def _pillows_8_bits(image: Image.Image) -> WideImage:
    """Pillow keeps the upper 8 of 16 bits."""
    image.load()
    low, high = _extrema(image)
    warning = narrow_warning(low * 257, high * 257, 0, 65535)
    return WideImage(to_rgb(image), [], warning)


def _extrema(image: Image.Image) -> tuple[int, int]:
    """The smallest and the largest value of the colours, opacity aside."""
    pairs: Any = image.getextrema()
    colours = pairs[: 3 if image.mode.startswith("RGB") else 1]
    return min(low for low, _ in colours), max(high for _, high in colours)


def _colour_values(image: Image.Image, stream: BinaryIO, options: ReadOptions) -> npt.NDArray[Any]:
    if isinstance(image, TiffImageFile):
        return read_tiff(stream, options.max_pixels, image.tell()).values
    import cv2

    stream.seek(0)
    values: Any = cv2.imdecode(np.frombuffer(stream.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise ImageError("truncated or corrupt: a PNG of 16 bits per channel that cannot be decoded")
    if values.ndim == 2:
        return values[..., None]
    order = [2, 1, 0, 3][: values.shape[2]]
    return values[..., order]
