"""A picture in memory as the content of an image file that keeps every pixel, for what reads image files."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from cfcam_gpu.images.any_image import as_array, channels_last, uint8_pixels

#: Mode of a PIL image -> the format that holds it as it is; for all others TIFF. PPM is the fastest.
_FORMATS = {"L": "PPM", "RGB": "PPM", "1": "PNG", "P": "PNG", "LA": "PNG", "RGBA": "PNG", "I;16": "PNG"}


def lossless_file(image: Any) -> bytes:
    """The content of an image file with the pixels of a picture.

    Args:
        image: a PIL image, an array or a tensor, as for `overlay`; also (H,W) uint16. Floating-point values in [0, 1]
            are rounded to 8 bits. A PIL image is taken as it is held: not turned by its EXIF orientation.

    Raises:
        ConfigError: a shape, type or range that is none of these.

    Example:
        >>> from cfcam_gpu.images.decode import load_image_bytes
        >>> load_image_bytes(lossless_file(np.full((1, 2, 3), 0.2))).getpixel((1, 0))
        (51, 51, 51)
    """
    image = image if isinstance(image, Image.Image) else _pil_image(as_array(image))
    kind = _FORMATS.get(image.mode, "TIFF")
    if kind != "PPM":
        image = image.copy()
        image.info = {name: value for name, value in image.info.items() if name == "transparency"}
    file = io.BytesIO()
    image.save(file, kind, **({"compress_level": 1} if kind == "PNG" else {}))
    return file.getvalue()


def _pil_image(values: np.ndarray) -> Image.Image:
    if values.dtype == np.uint16 and values.ndim == 2:
        return Image.fromarray(values)
    pixels = uint8_pixels(channels_last(values))
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
