"""Decoding: any image file to an upright RGB image of 8 bits per channel, or an `ImageError` with the reason."""

from __future__ import annotations

import io
import re
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cfcam_gpu.errors import ImageError
from cfcam_gpu.images.dicom import is_dicom, load_dicom
from cfcam_gpu.images.gray_range import GrayRange, gray_range
from cfcam_gpu.images.limits import MAX_PIXELS, check_pixels
from cfcam_gpu.images.scaled import Decoded, reduce_jpeg

#: Formats that Pillow decodes by starting another program (Ghostscript).
_REFUSED_FORMATS = {"EPS"}


def load_image(path: Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The first frame of an image file as an upright RGB image, 8 bits per channel.

    Transparent pixels are composited over white. Grayscale of more than 8 bits is scaled by the range
    that its file declares (see `gray_range`), not clipped. EXIF orientation is applied. DICOM files
    go through `load_dicom`. Where a choice had to be made to get to 8 bits, the image's `info["cfcam"]`
    says which; `info` contains nothing else.

    Raises:
        ImageError: the file cannot be read, is not an image, is damaged, has values out of range or
            more than `max_pixels` pixels (or more than 2 * PIL.Image.MAX_IMAGE_PIXELS, Pillow's own
            limit). The message is the reason, without the file's name.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "gray.png"
        ...     Image.new("L", (3, 2), 100).save(path)
        ...     image = load_image(path)
        >>> image.mode, image.size, image.getpixel((0, 0))
        ('RGB', (3, 2), (100, 100, 100))
    """
    with open_file(path) as stream:
        return decode(stream, path.name, max_pixels).image


def load_image_bytes(content: bytes, name: str = "", max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image in the bytes of a file, as `load_image` gives it.

    Args:
        content: the whole file.
        name: the file's name; needed only for DICOM files that lack the mark "DICM".
        max_pixels: the most pixels the image may have.

    Raises:
        ImageError: as for `load_image`.

    Example:
        >>> load_image_bytes(b"P5 2 1 255 \\x00\\xff").getpixel((1, 0))
        (255, 255, 255)
    """
    if not content:
        raise ImageError("empty file")
    return decode(io.BytesIO(content), name, max_pixels).image


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """An image file opened for reading.

    Raises:
        ImageError: the file cannot be opened or read, is empty, or is no file.
    """
    _check_file(path)
    try:
        with path.open("rb") as stream:
            yield stream
    except OSError as error:
        raise ImageError(_reason(error, 0)) from error


def decode(
    stream: BinaryIO,
    name: str = "",
    max_pixels: int = MAX_PIXELS,
    scale: Callable[[int, int], int] | None = None,
) -> Decoded:
    """The image in an opened file, as `load_image` gives it or smaller.

    Args:
        stream: the file, at its start.
        name: the file's name; needed only for DICOM files that lack the mark "DICM".
        max_pixels: the most pixels the image may have.
        scale: from the width and height of the upright image to 1, 2, 4 or 8; a JPEG is decoded that
            many times smaller. None, and files of other formats: full size.

    Raises:
        ImageError: as for `load_image`.

    Example:
        >>> file = io.BytesIO()
        >>> Image.new("L", (16, 10), 100).save(file, "jpeg")
        >>> decode(file, scale=lambda width, height: 2).image.size
        (8, 5)
    """
    with decoding_errors(max_pixels):
        if is_dicom(stream, name):
            return Decoded.full(load_dicom(stream, max_pixels))
        with Image.open(stream, formats=_formats()) as image:
            check_pixels(image.width, image.height, max_pixels)
            wide = gray_range(image, stream)
            layout = None if scale is None else reduce_jpeg(image, scale)
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            rgb = _to_rgb(image, wide)
            return Decoded.full(rgb) if layout is None else Decoded(rgb, *layout)


@contextmanager
def decoding_errors(max_pixels: int = MAX_PIXELS) -> Iterator[None]:
    """Hides the decoders' warnings, and raises whatever they raise as an `ImageError` with the reason."""
    try:
        with _quiet:
            yield
    except ImageError:
        raise
    except Exception as error:  # the plugins raise nearly anything on damaged files
        raise ImageError(_reason(error, max_pixels)) from error


def _check_file(path: Path) -> None:
    try:
        path.stat()
    except ValueError as error:
        raise ImageError("no file can have this name: it contains a null character") from error
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


#: Exceptions of the file system and of Pillow that always mean the same.
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (UnidentifiedImageError, "not an image that can be read"),
    (FileNotFoundError, "the file does not exist"),
    (PermissionError, "no permission to read the file"),
    (MemoryError, "not enough memory to decode it"),
)

#: Exceptions whose text alone says little ("'foo'", "list index out of range"): their class is named too.
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
    """Pillow refuses an image of twice its own limit by itself, before its width and height are known."""
    limit = min(max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or max_pixels))
    match = re.search(r"\((\d+) pixels\)", text)
    pixels = f"{int(match[1]):,} pixels" if match else "the number of pixels"
    return f"{pixels} is over the limit of {limit:,}"


def _to_rgb(image: Image.Image, wide: GrayRange | None) -> Image.Image:
    if wide is not None:
        values = np.asarray(image)
        transparent = image.info.get("transparency")  # the one transparent value of a PNG, or None
        gray = np.where(values == transparent, np.uint8(255), wide.to_8_bit(values))
        return _with_info(Image.fromarray(gray).convert("RGB"), wide.info())
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return _with_info(Image.alpha_composite(white, image.convert("RGBA")).convert("RGB"), {})
    # An RGB photo is not copied: for large ones that would take longer than everything else here.
    return _with_info(image if image.mode == "RGB" else image.convert("RGB"), {})


def _with_info(image: Image.Image, info: dict[str | tuple[int, int], Any]) -> Image.Image:
    """Replaces what the file itself says in `info`: it could have an entry "cfcam" too."""
    image.info = info
    return image


class _Quiet:
    """Hides the decoders' warnings while any thread decodes.

    `warnings.catch_warnings` alone is not safe when threads overlap: the last thread to leave would
    restore the filters that another one had set.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._filters = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._filters.enter_context(warnings.catch_warnings())
                warnings.filterwarnings("ignore", module=rf"(PIL|pydicom)\b|{re.escape(__package__)}\.")
            self._inside += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._filters.close()


_quiet = _Quiet()
