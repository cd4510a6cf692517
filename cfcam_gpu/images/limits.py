"""How large an image may be."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from cfcam_gpu.errors import ImageError

#: Most pixels of an image unless more are allowed. Pillow's own default: 256 MiB at 24 bits per pixel.
MAX_PIXELS = 89_478_485

#: What allows more, for messages.
RAISE = "--max-pixels allows more"


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Raises ImageError for an image of more than `max_pixels` pixels.

    Example:
        >>> check_pixels(3, 2, max_pixels=6)
    """
    if width * height > max_pixels:
        size = f"{width}×{height} = {width * height:,} pixels"  # noqa: RUF001
        raise ImageError(f"{size} is over the limit of {max_pixels:,}; {RAISE}")


class _PillowLimit:
    """Raises Pillow's own limit while any thread reads an image that may be larger."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before: int | None = None

    @contextmanager
    def at_least(self, max_pixels: int) -> Iterator[None]:
        if max_pixels <= MAX_PIXELS:
            yield
            return
        from PIL import Image

        with self._lock:
            if self._inside == 0:
                self._before = Image.MAX_IMAGE_PIXELS
            self._inside += 1
            if Image.MAX_IMAGE_PIXELS is not None:
                Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, max_pixels)
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    Image.MAX_IMAGE_PIXELS = self._before


#: `pillow_limit.at_least(N)` is a context in which Pillow opens images of N pixels.
pillow_limit = _PillowLimit()
