"""Any image file to an upright 8-bit RGB image, or an `ImageError` with a plain reason."""

from __future__ import annotations

import io
import re
import struct
import threading
import warnings
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from cfcam_gpu.errors import ImageError
from cfcam_gpu.images.dicom import is_dicom, load_dicom

#: Pillow's own default limit: a 256 MiB image of 24 bits a pixel.
MAX_PIXELS = 89_478_485

#: Formats that Pillow hands to an outside program (Ghostscript).
_REFUSED_FORMATS = {"EPS"}


def load_image(path: Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The first frame of the file as an upright RGB image, 8 bits a channel.

    Transparent pixels are composited over white. Grayscale of more than 8 bits is scaled by the
    range its file declares (see `_range`), not clipped. EXIF orientation is applied. DICOM
    files go through `dicom.load_dicom`. Where more than a plain conversion was done, the image's
    `info["cfcam"]` says what; nothing else is in `info`.

    Raises:
        ImageError: the file cannot be read, is no image, is damaged, holds values out of range or
            more than `max_pixels` pixels. Pillow's own limit, 2 * PIL.Image.MAX_IMAGE_PIXELS, holds as well.
            The message is the reason, without the file's name.
    """
    _check_file(path)
    try:
        with path.open("rb") as stream:
            return _load(stream, path.name, max_pixels)
    except OSError as error:
        raise ImageError(_reason(error, max_pixels)) from error


def load_image_bytes(content: bytes, name: str = "", max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The same for the bytes of a file; `name` only tells DICOM files that lack their mark."""
    if not content:
        raise ImageError("empty file")
    return _load(io.BytesIO(content), name, max_pixels)


def _load(stream: BinaryIO, name: str, max_pixels: int) -> Image.Image:
    try:
        with _quiet:
            if is_dicom(stream, name):
                return load_dicom(stream, max_pixels)
            with Image.open(stream, formats=_formats()) as image:
                _check_pixels(image, max_pixels)
                wide = _range(image, stream)
                image.load()
                ImageOps.exif_transpose(image, in_place=True)
                return _to_rgb(image, wide)
    except ImageError:
        raise
    except Exception as error:  # the plugins raise nearly anything on damaged files
        raise ImageError(_reason(error, max_pixels)) from error


def _check_file(path: Path) -> None:
    try:
        path.stat()
    except ValueError as error:
        raise ImageError("no file can have this name: it holds a null character") from error
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


@dataclass(frozen=True)
class _Range:
    """The values that become black and white in grayscale of more than 8 bits.

    `kind` names the pixels and `given` why this is their range, both for people to read. `shift`
    is the number of bits that fill up the significant ones from below; the range is without them.
    """

    low: float
    high: float
    kind: str
    given: str
    shift: int = 0
    inverted: bool = False
    declared: bool = False

    def to_8_bit(self, values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        if self.shift:
            values = values >> self.shift
        low, high = values.min(), values.max()
        if not (low >= self.low and high <= self.high):  # true for NaN as well
            bounds = f"from {self.low:.10g} to {self.high:.10g}{self.given}"
            raise ImageError(f"{self.kind} pixels must be {bounds}, got {low:.6g} to {high:.6g}")
        gray = np.rint((values - self.low) * (255.0 / (self.high - self.low))).astype(np.uint8)
        return 255 - gray if self.inverted else gray

    def info(self) -> dict[str | tuple[int, int], Any]:
        """What was done, unless it is the plain reading."""
        text = f"{self.low:.10g} to {self.high:.10g}{self.given}" if self.declared else ""
        steps = [step for step in (text, "WhiteIsZero inverted" if self.inverted else "") if step]
        return {"cfcam": ", ".join(steps)} if steps else {}


#: Grayscale modes of more than 8 bits, which Pillow would clip, and their range where nothing declares one.
_WIDE_MODES = {
    **dict.fromkeys(("I;16", "I;16L", "I;16B", "I;16N"), _Range(0, 65535, "16-bit", "")),
    "I": _Range(0, 65535, "32-bit integer", " (16-bit range)"),
    "F": _Range(0, 1, "floating-point", ""),
}


def _range(image: Image.Image, stream: BinaryIO) -> _Range | None:
    """The range of a wide grayscale image, before it is loaded; None for any other image.

    TIFF: SMinSampleValue and SMaxSampleValue, else BitsPerSample; WhiteIsZero inverts. PNG: sBIT
    gives the number of significant bits, which are the upper ones by the PNG specification.
    """
    plain = _WIDE_MODES.get(image.mode)
    if plain is None or not isinstance(image, (TiffImageFile, PngImageFile)):
        return plain
    if isinstance(image, PngImageFile):
        bits = _png_significant_bits(stream)
        return replace(plain, **_bits(bits, "sBIT"), shift=16 - bits) if 0 < bits < 16 else plain
    return replace(plain, **_tiff_range(image), inverted=image.tag_v2.get(_PHOTOMETRIC) == 0)


#: TIFF tags.
_BITS, _PHOTOMETRIC, _SMIN, _SMAX = 258, 262, 340, 341


def _tiff_range(image: TiffImageFile) -> dict[str, Any]:
    low, high = (_number(image.tag_v2.get(tag)) for tag in (_SMIN, _SMAX))
    if high is not None:
        low = low or 0.0
        if not low < high:
            raise ImageError(f"SMinSampleValue {low:g} must be below SMaxSampleValue {high:g}")
        return {"low": low, "high": high, "given": " (SMinSampleValue, SMaxSampleValue)", "declared": True}
    bits = _number(image.tag_v2.get(_BITS)) or 16
    return _bits(int(bits), "BitsPerSample") if bits < 16 else {}


def _bits(bits: int, source: str) -> dict[str, Any]:
    return {"low": 0, "high": 2**bits - 1, "given": f" ({source} {bits})", "declared": True}


def _number(value: Any) -> float | None:
    """The first of a tag's values."""
    if isinstance(value, (tuple, list)):
        value = value[0] if value else None
    return None if value is None else float(value)


def _png_significant_bits(stream: BinaryIO) -> int:
    """The sBIT chunk's number for gray; 0 without one. The stream comes back where it was."""
    before = stream.tell()
    stream.seek(8)
    try:
        while len(head := stream.read(8)) == 8 and head[4:] != b"IDAT":
            length = int.from_bytes(head[:4], "big")
            if head[4:] == b"sBIT" and length:
                return stream.read(1)[0]
            stream.seek(length + 4, io.SEEK_CUR)
        return 0
    finally:
        stream.seek(before)


def _to_rgb(image: Image.Image, wide: _Range | None) -> Image.Image:
    if wide is not None:
        values = np.asarray(image)
        transparent = image.info.get("transparency")  # the one transparent value of a PNG, or None
        gray = np.where(values == transparent, np.uint8(255), wide.to_8_bit(values))
        return _with_info(Image.fromarray(gray).convert("RGB"), wide.info())
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return _with_info(Image.alpha_composite(white, image.convert("RGBA")).convert("RGB"), {})
    # Of the usual photo no copy is made: large ones would spend more time on that than on the rest.
    return _with_info(image if image.mode == "RGB" else image.convert("RGB"), {})


def _with_info(image: Image.Image, info: dict[str | tuple[int, int], Any]) -> Image.Image:
    """What the file says of itself is left behind, lest it pass for what was done here."""
    image.info = info
    return image


class _Quiet:
    """Hides the decoders' warnings while any thread decodes.

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
                warnings.filterwarnings(
                    "ignore", module=r"(PIL|pydicom)\b|cfcam_gpu\.dataset\.(decode|dicom)"
                )
            self._inside += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._filters.close()


_quiet = _Quiet()
