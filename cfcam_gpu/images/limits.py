"""How large an image may be."""

from __future__ import annotations

from cfcam_gpu.errors import ImageError

#: Most pixels of an image. Pillow's own default: 256 MiB at 24 bits per pixel.
MAX_PIXELS = 89_478_485


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Raises ImageError for an image of more than `max_pixels` pixels.

    Example:
        >>> check_pixels(3, 2, max_pixels=6)
    """
    if width * height > max_pixels:
        size = f"{width}×{height} = {width * height:,} pixels"  # noqa: RUF001
        raise ImageError(f"{size} is over the limit of {max_pixels:,}")
