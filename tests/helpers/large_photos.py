"""Large pictures with the detail of real photos, and JPEG files of them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

ORIENTATION = 0x0112


def mosaic(photos: Sequence[Image.Image], size: tuple[int, int]) -> Image.Image:
    """Photos side by side at their own resolution; `size`: (width, height)."""
    tile = 256
    canvas = Image.new("RGB", size)
    corners = [(x, y) for y in range(0, size[1], tile) for x in range(0, size[0], tile)]
    for i, corner in enumerate(corners):
        photo = photos[i % len(photos)]
        shift = i // len(photos) * 31 % max(1, min(photo.size) - tile)
        canvas.paste(photo.crop((shift, shift, shift + tile, shift + tile)), corner)
    return canvas


def waves(size: tuple[int, int]) -> Image.Image:
    """Sine waves of 256 pixels along both axes: a shift by a pixel changes the value by up to 3 levels."""
    width, height = size
    x, y = np.arange(width), np.arange(height)[:, None]
    red, green = (
        127.5 + 127 * np.sin(2 * np.pi * place / 256 + phase) for place, phase in ((x, 0.3), (y, 1))
    )
    pixels = np.stack(np.broadcast_arrays(red, green, np.float64(90)), axis=-1)
    return Image.fromarray(np.rint(pixels).astype(np.uint8))


def jpeg(image: Image.Image, orientation: int = 1, **settings: Any) -> io.BytesIO:
    """A JPEG file; `orientation`: its EXIF entry."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    file = io.BytesIO()
    image.save(file, "jpeg", **{"quality": 90, "exif": exif, **settings})
    file.seek(0)
    return file
