"""Any image file to an upright 8-bit RGB image, or an `ImageError` with a plain reason."""

from __future__ import annotations

import re
import struct
import threading
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cfcam_gpu.errors import ImageError

#: Pillow's own default limit: a 256 MiB image of 24 bits a pixel.
MAX_PIXELS = 89_478_485

#: Formats that Pillow hands to an outside program (Ghostscript).
_REFUSED_FORMATS = {"EPS"}


def load_image(path: Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The first frame of the file as an upright RGB image, 8 bits a channel.

    Transparent pixels are composited over white. 16-bit grayscale is scaled by its whole range
    (0 to 65535), not clipped; floating-point grayscale is taken as 0 to 1. EXIF orientation is applied.

    Raises:
        ImageError: the file cannot be read, is no image, is damaged, holds values out of range or
            more than `max_pixels` pixels. Pillow's own limit, 2 * PIL.Image.MAX_IMAGE_PIXELS, holds as well.
            The message is the reason, without the file's name.
    """
    _check_file(path)
    try:
        with _quiet, Image.open(path, formats=_formats()) as image:
            _check_pixels(image, max_pixels)
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except ImageError:
        raise
    except Exception as error:  # Pillow's plugins raise nearly anything on damaged files
        raise ImageError(_reason(error, max_pixels)) from error


def _check_file(path: Path) -> None:
    try:
        path.stat()
    except OSError as error:
        raise ImageError(_reason(error, 0)) from error
    if path.is_dir():
        raise ImageError("a folder, not an image file")
    if not path.is_file():
        raise ImageError("not a regular file")
    if path.stat().st_size == 0:
        raise ImageError("empty file")


def _formats() -> list[str]:
    Image.init()
    return [name for name in Image.ID if name not in _REFUSED_FORMATS]


def _check_pixels(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        size = f"{width}×{height} = {width * height:,} pixels"  # noqa: RUF001
        raise ImageError(f"{size} is over the limit of {max_pixels:,}")


#: Exceptions of the file system and of Pillow with one meaning each.
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (UnidentifiedImageError, "not an image that can be read"),
    (FileNotFoundError, "the file does not exist"),
    (PermissionError, "no permission to read the file"),
    (MemoryError, "not enough memory to decode it"),
)

#: The texts of these speak of Python's insides ("'foo'", "list index out of range").
_INTERNAL = (struct.error, LookupError, TypeError, AttributeError)


def _reason(error: Exception, max_pixels: int) -> str:
    for kind, reason in _REASONS:
        if isinstance(error, kind):
            return reason
    text = " ".join(str(error).split())
    if isinstance(error, Image.DecompressionBombError):
        return _bomb_reason(text, max_pixels)
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be read: {error.strerror}"
    if isinstance(error, _INTERNAL) or not text:
        text = f"{type(error).__name__} {text}".strip()
    return f"truncated or corrupt: {text}"


def _bomb_reason(text: str, max_pixels: int) -> str:
    """Pillow refuses from twice its own limit on before the image's width and height are known."""
    limit = min(max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or max_pixels))
    found = re.search(r"\((\d+) pixels\)", text)
    pixels = f"{int(found[1]):,} pixels" if found else "the number of pixels"
    return f"{pixels} is over the limit of {limit:,}"


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _WIDE_MODES:
        values = np.asarray(image)
        gray = _WIDE_MODES[image.mode](values)
        transparent = image.info.get("transparency")  # the one transparent value of a PNG, or None
        return Image.fromarray(np.where(values == transparent, np.uint8(255), gray)).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _scale_16_bit(values: np.ndarray) -> np.ndarray:
    return np.rint(values / 257.0).astype(np.uint8)  # 65535 = 257 * 255


def _scale_32_bit(values: np.ndarray) -> np.ndarray:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ImageError(f"32-bit integer pixels must be from 0 to 65535 (16-bit range), got {low} to {high}")
    return _scale_16_bit(values)


def _scale_float(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # true for NaN as well
        raise ImageError(f"floating-point pixels must be from 0 to 1, got {low:g} to {high:g}")
    return np.rint(values * 255.0).astype(np.uint8)


#: Grayscale modes of more than 8 bits, which Pillow would clip.
_WIDE_MODES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "I;16": _scale_16_bit,
    "I;16L": _scale_16_bit,
    "I;16B": _scale_16_bit,
    "I;16N": _scale_16_bit,
    "I": _scale_32_bit,
    "F": _scale_float,
}


class _Quiet:
    """Hides Pillow's warnings while any thread decodes.

    `warnings.catch_warnings` alone is not safe when threads overlap: the filters that the last
    thread restores may be another thread's.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._filters = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._filters.enter_context(warnings.catch_warnings())
                warnings.filterwarnings("ignore", module=r"PIL\b|cfcam_gpu\.dataset\.decode")
            self._inside += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._filters.close()


_quiet = _Quiet()
