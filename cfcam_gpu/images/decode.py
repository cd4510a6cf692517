"""Decoding: any image file to an upright RGB image of 8 bits per channel, or an `ImageError` with the reason."""

from __future__ import annotations

import io
import logging
import re
import struct
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from cfcam_gpu._utils.messages import printable
from cfcam_gpu._utils.places.place import Place
from cfcam_gpu.errors import ImageError, PlaceError
from cfcam_gpu.images.dicom import is_dicom, load_dicom
from cfcam_gpu.images.gray_range import gray_range
from cfcam_gpu.images.identify import what_it_is
from cfcam_gpu.images.limits import MAX_PIXELS, RAISE, check_pixels, pillow_limit
from cfcam_gpu.images.pages import turn_to_page
from cfcam_gpu.images.png import without_descriptions
from cfcam_gpu.images.read_options import ReadOptions, ValueRange
from cfcam_gpu.images.scaled import Decoded, exif_orientation, reduce_jpeg, turned_upright
from cfcam_gpu.images.tiff import is_tiff
from cfcam_gpu.images.wide import is_wide, load_tiff, reduced_to_rgb, to_rgb

#: Formats that Pillow decodes by starting another program (Ghostscript), or leaves to a handler that others install.
_REFUSED_FORMATS = {"EPS", "BUFR", "GRIB", "HDF5", "WMF"}

_DEFAULT_OPTIONS = ReadOptions()

# Without a handler, what these log of damaged files would be printed to stderr. The reason says it.
for _name in ("PIL", "tifffile"):
    logging.getLogger(_name).addHandler(logging.NullHandler())

#: A file at a URL of more bytes is not read: it is held in memory.
MAX_URL_BYTES = 1 << 30

#: Most characters of a reason.
_LONGEST = 500


def load_image(path: Path, max_pixels: int = MAX_PIXELS, value_range: str | None = None) -> Image.Image:
    """The first frame of an image file as an upright RGB image, 8 bits per channel.

    Transparent pixels are composited over white. Grayscale of more than 8 bits is scaled by the range
    that its file declares (see `gray_range`), not clipped. EXIF orientation is applied. DICOM files
    go through `load_dicom`. Where a choice had to be made to get to 8 bits, the image's `info["cfcam"]`
    says which; where the result is likely to be wrong, `info["cfcam_warning"]` says why. `info` contains
    nothing else.

    Args:
        max_pixels: the most pixels that the image may have.
        value_range: "LOW,HIGH", "auto" or "percentile:P": which values of an image of more than 8 bits per
            channel become black and white (see `ValueRange`); it takes the place of a DICOM file's window.

    Raises:
        ImageError: the file cannot be read, is not an image, is damaged, has values out of range or
            more than `max_pixels` pixels. The message is the reason, without the file's name.
        ValueError: no such value range.

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
        return decode(stream, path.name, read_options(max_pixels, value_range)).image


def read_options(max_pixels: int, value_range: str | None) -> ReadOptions:
    """The options of the functions that take them one by one."""
    return ReadOptions(None if value_range is None else ValueRange.parse(value_range), max_pixels)


def load_image_bytes(
    content: bytes, name: str = "", max_pixels: int = MAX_PIXELS, value_range: str | None = None
) -> Image.Image:
    """The image in the bytes of a file, as `load_image` gives it.

    Args:
        content: the whole file.
        name: the file's name; needed only for DICOM files that cannot be told by their content.
        max_pixels, value_range: as for `load_image`.

    Raises:
        ImageError: as for `load_image`.

    Example:
        >>> load_image_bytes(b"P5 2 1 255 \\x00\\xff").getpixel((1, 0))
        (255, 255, 255)
    """
    if not content:
        raise ImageError("empty file")
    return decode(io.BytesIO(content), name, read_options(max_pixels, value_range)).image


@contextmanager
def open_file(path: Path | Place) -> Iterator[BinaryIO]:
    """An image file opened for reading; one at a URL is read into memory.

    Raises:
        ImageError: the file cannot be opened or read, is empty, or is no file.
        MissingPackageError: what reads such URLs is not installed.
    """
    if isinstance(path, Place):
        yield _downloaded(path)
        return
    _check_file(path)
    try:
        with path.open("rb") as stream:
            yield stream
    except OSError as error:
        raise ImageError(_reason(error, 0)) from error


def decode(
    stream: BinaryIO,
    name: str = "",
    options: ReadOptions = _DEFAULT_OPTIONS,
    scale: Callable[[int, int], int] | None = None,
) -> Decoded:
    """The image in an opened file, as `load_image` gives it or smaller.

    Args:
        stream: the file, at its start.
        name: the file's name; needed only for DICOM files that cannot be told by their content.
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
    with decoding_errors(options.max_pixels), pillow_limit.at_least(options.max_pixels):
        if is_dicom(stream, name):
            return Decoded.full(load_dicom(stream, options))
        try:
            return _decode(stream, options, scale)
        except UnidentifiedImageError as error:
            if is_tiff(stream):
                return Decoded.full(_with_info(*load_tiff(stream, options)))
            raise ImageError(what_it_is(stream)) from error
        except ValueError:
            smaller = without_descriptions(stream)
            if smaller is None:
                raise
            return _decode(smaller, options, scale)


def _decode(stream: BinaryIO, options: ReadOptions, scale: Callable[[int, int], int] | None) -> Decoded:
    with Image.open(stream, formats=image_formats()) as image:
        check_pixels(image.width, image.height, options.max_pixels)
        steps = turn_to_page(image)
        check_pixels(image.width, image.height, options.max_pixels)
        wide = gray_range(image, stream)
        layout = None if scale is None else reduce_jpeg(image, scale)
        if wide is not None or is_wide(image):
            rgb, more, warning = reduced_to_rgb(image, stream, wide, options)
        else:
            image.load()
            rgb, more, warning = to_rgb(image), [], None
        rgb = _with_info(turned_upright(rgb, exif_orientation(image)), [*steps, *more], warning)
        return Decoded.full(rgb) if layout is None else Decoded(rgb, *layout)


@contextmanager
def decoding_errors(
    max_pixels: int = MAX_PIXELS, let_pass: type[Exception] | tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Hides the decoders' warnings, and raises whatever they raise as an `ImageError` with the reason.

    Exceptions of `let_pass` are raised as they are.
    """
    try:
        with _quiet:
            yield
    except ImageError as error:
        text = _plain(str(error))
        if text == str(error):
            raise
        raise type(error)(text) from error
    except let_pass:
        raise
    except Exception as error:  # the plugins raise nearly anything on damaged files
        raise ImageError(_reason(error, max_pixels)) from error


def _downloaded(place: Place) -> BinaryIO:
    try:
        content = place.read(0, MAX_URL_BYTES + 1)
    except PlaceError as error:
        raise ImageError(str(error)) from error
    if not content:
        raise ImageError("empty file")
    if len(content) > MAX_URL_BYTES:
        raise ImageError(f"more than {MAX_URL_BYTES:,} bytes, which is the limit of files at URLs")
    return io.BytesIO(content)


def _check_file(path: Path) -> None:
    try:
        path.stat()
    except ValueError as error:
        what = "a lone surrogate" if isinstance(error, UnicodeError) else "a null character"
        raise ImageError(f"no file can have this name: it contains {what}") from error
    except OSError as error:
        raise ImageError(_reason(error, 0)) from error
    if path.is_dir():
        raise ImageError("a folder, not an image file")
    if not path.is_file():
        raise ImageError("not a regular file")
    if path.stat().st_size == 0:
        raise ImageError("empty file")


def image_formats() -> list[str]:
    """Pillow's names of the formats that are decoded."""
    Image.init()
    return [name for name in Image.ID if name not in _REFUSED_FORMATS]


#: Exceptions of the file system and of Pillow that always mean the same.
_REASONS: tuple[tuple[type[Exception], str], ...] = (
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
    text = _plain(str(error))
    if isinstance(error, Image.DecompressionBombError):
        return _bomb_reason(text, max_pixels)
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be read: {error.strerror}"
    if isinstance(error, _INTERNAL) or not text:
        text = f"{type(error).__name__} {text}".strip()
    return f"truncated or corrupt: {text}"


def _plain(text: str) -> str:
    """A reason as one line of at most `_LONGEST` characters: it may quote what a damaged file holds."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"


def _bomb_reason(text: str, max_pixels: int) -> str:
    """Pillow refuses an image of twice its own limit by itself, before its width and height are known."""
    match = re.search(r"\((\d+) pixels\)", text)
    pixels = f"{int(match[1]):,} pixels" if match else "the number of pixels"
    return f"{pixels} is over the limit of {max_pixels:,}; {RAISE}"


def _with_info(image: Image.Image, steps: Sequence[str], warning: str | None) -> Image.Image:
    """Replaces what the file itself says in `info`: it could have an entry "cfcam" too."""
    texts = {"cfcam": ", ".join([*steps, *([warning] if warning else [])]), "cfcam_warning": warning}
    image.info = {name: text for name, text in texts.items() if text}
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
