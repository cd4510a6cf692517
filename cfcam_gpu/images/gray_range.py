"""Grayscale of more than 8 bits: which values are black and white, and the conversion to 8 bits."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from cfcam_gpu.errors import ImageError

#: TIFF tags.
_BITS, _PHOTOMETRIC, _SMIN, _SMAX = 258, 262, 340, 341


@dataclass(frozen=True)
class GrayRange:
    """The pixel values that become black and white.

    Attributes:
        low, high: these become 0 and 255.
        kind: what the pixels are, for messages.
        source: why this is their range, for messages; begins with a space.
        shift: bits below the significant ones in each value; `low` and `high` are without them.
        inverted: `low` is white.
        declared: the file states the range.

    Example:
        >>> twelve_bits = GrayRange(0, 4095, "16-bit", " (BitsPerSample 12)")
        >>> twelve_bits.to_8_bit(np.array([0, 1024, 4095], np.uint16)).tolist()
        [0, 64, 255]
    """

    low: float
    high: float
    kind: str
    source: str
    shift: int = 0
    inverted: bool = False
    declared: bool = False

    def to_8_bit(self, values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """Pixel values, scaled to 0 to 255 and rounded. Raises ImageError for values out of range, and NaN."""
        if self.shift:
            values = values >> self.shift
        low, high = values.min(), values.max()
        if not (low >= self.low and high <= self.high):  # true for NaN as well
            bounds = f"from {self.low:.10g} to {self.high:.10g}{self.source}"
            raise ImageError(f"{self.kind} pixels must be {bounds}, got {low:.6g} to {high:.6g}")
        gray = np.rint((values - self.low) * (255.0 / (self.high - self.low))).astype(np.uint8)
        return 255 - gray if self.inverted else gray

    def info(self) -> dict[str | tuple[int, int], Any]:
        """The image's `info["cfcam"]`: the range and the inversion, where they are not the usual ones."""
        text = f"{self.low:.10g} to {self.high:.10g}{self.source}" if self.declared else ""
        steps = [step for step in (text, "WhiteIsZero inverted" if self.inverted else "") if step]
        return {"cfcam": ", ".join(steps)} if steps else {}


#: Pillow's grayscale modes of more than 8 bits, and their range where the file declares none. Pillow's own
#: conversion would clip them.
_DEFAULTS = {
    **dict.fromkeys(("I;16", "I;16L", "I;16B", "I;16N"), GrayRange(0, 65535, "16-bit", "")),
    "I": GrayRange(0, 65535, "32-bit integer", " (16-bit range)"),
    "F": GrayRange(0, 1, "floating-point", ""),
}


def gray_range(image: Image.Image, stream: BinaryIO) -> GrayRange | None:
    """The range of a grayscale image of more than 8 bits; None for any other image.

    TIFF: SMinSampleValue and SMaxSampleValue, else BitsPerSample; WhiteIsZero inverts. PNG: sBIT
    gives the number of significant bits, which are the upper ones by the PNG specification.

    Args:
        image: opened and not loaded yet.
        stream: the file that it was opened from; its position is restored.

    Example:
        >>> gray_range(Image.new("F", (1, 1)), io.BytesIO()).high
        1
        >>> gray_range(Image.new("RGB", (1, 1)), io.BytesIO()) is None
        True
    """
    default = _DEFAULTS.get(image.mode)
    if default is None or not isinstance(image, (TiffImageFile, PngImageFile)):
        return default
    if isinstance(image, PngImageFile):
        bits = _png_significant_bits(stream)
        return replace(default, **_from_bits(bits, "sBIT"), shift=16 - bits) if 0 < bits < 16 else default
    return replace(default, **_tiff_range(image), inverted=image.tag_v2.get(_PHOTOMETRIC) == 0)


def _tiff_range(image: TiffImageFile) -> dict[str, Any]:
    low, high = (_first_number(image.tag_v2.get(tag)) for tag in (_SMIN, _SMAX))
    if high is not None:
        low = low or 0.0
        if not low < high:
            raise ImageError(f"SMinSampleValue {low:g} must be below SMaxSampleValue {high:g}")
        return {"low": low, "high": high, "source": " (SMinSampleValue, SMaxSampleValue)", "declared": True}
    bits = _first_number(image.tag_v2.get(_BITS)) or 16
    return _from_bits(int(bits), "BitsPerSample") if bits < 16 else {}


def _from_bits(bits: int, source: str) -> dict[str, Any]:
    return {"low": 0, "high": 2**bits - 1, "source": f" ({source} {bits})", "declared": True}


def _first_number(value: Any) -> float | None:
    """A tag's first value."""
    if isinstance(value, (tuple, list)):
        value = value[0] if value else None
    return None if value is None else float(value)


def _png_significant_bits(stream: BinaryIO) -> int:
    """The significant bits of gray in the sBIT chunk; 0 without that chunk."""
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
