"""Grayscale of more than 8 bits: which values are black and white, and the conversion to 8 bits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from cfcam_gpu.errors import ImageError
from cfcam_gpu.images.png import significant_bits
from cfcam_gpu.images.read_options import ValueRange

#: Values that are scaled at once.
_BLOCK = 1 << 20

#: An image whose values fill less of their range than this is warned about.
_NARROW = 0.1

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
        return self.reduced(values).pixels

    def reduced(
        self, values: npt.NDArray[Any], value_range: ValueRange | None = None, *, rounded: bool = True
    ) -> Reduced:
        """Pixel values, scaled to 0 to 255 and rounded, and what was done.

        Args:
            values: gray or colour, of any shape.
            value_range: these values become black and white instead, and those beyond them too.
            rounded: False: float32, with the levels of the values.

        Raises:
            ImageError: without `value_range`, values out of range; NaN, or limits that are not finite.
        """
        if self.shift:
            values = values >> self.shift
        low, high = float(values.min()), float(values.max())
        if value_range is None:
            self._check(low, high)
            limits, warning = (self.low, self.high), narrow_warning(low, high, self.low, self.high)
            steps = [f"{self.low:.10g} to {self.high:.10g}{self.source}"] if self.declared else []
        else:
            limits, warning = value_range.limits(values), None
            if not np.isfinite([*limits, low + high - low]).all():
                raise ImageError(
                    f"{self.kind} pixels must be numbers for a value range, got {low:.6g} to {high:.6g}"
                )
            steps = [f"{limits[0]:.10g} to {limits[1]:.10g} (value range {value_range})"]
        pixels = scaled_to_8_bit(values, *limits, rounded=rounded)
        if self.inverted:
            pixels, steps = 255 - pixels, [*steps, "WhiteIsZero inverted"]
        return Reduced(pixels, steps, warning)

    def _check(self, low: float, high: float) -> None:
        if not (low >= self.low and high <= self.high):  # true for NaN as well
            bounds = f"from {self.low:.10g} to {self.high:.10g}{self.source}"
            hint = "" if self.declared or low != low else "; give their range with --value-range"
            raise ImageError(f"{self.kind} pixels must be {bounds}, got {low:.6g} to {high:.6g}{hint}")


class Reduced(NamedTuple):
    """An image of 8 bits per channel or in float32, what was done to get it, and a warning (None: none)."""

    pixels: npt.NDArray[Any]
    steps: list[str]
    warning: str | None


def scaled_to_8_bit(
    values: npt.NDArray[Any], low: float, high: float, *, rounded: bool = True
) -> npt.NDArray[Any]:
    """Values scaled so that `low` becomes 0 and `high` 255, cut there and rounded; without rounding float32.

    Rows are scaled in blocks, so that little memory is needed beyond the values and the result.

    Example:
        >>> scaled_to_8_bit(np.array([[-5, 0, 10]]), 0, 10).tolist()
        [[0, 0, 255]]
    """
    pixels: npt.NDArray[Any] = np.empty(values.shape, np.uint8 if rounded else np.float32)
    step = max(1, _BLOCK * len(values) // max(1, values.size))
    for start in range(0, len(values), step):
        block = values[start : start + step]
        block = block.astype(np.float32) if block.dtype == np.float16 else block
        clipped = np.clip((block - float(low)) * (255.0 / (high - low)), 0, 255)
        pixels[start : start + step] = np.rint(clipped) if rounded else clipped
    return pixels


def to_picture(pixels: npt.NDArray[Any]) -> Image.Image:
    """Pixels as an image: RGB of 8 bits per channel, or of mode F for gray values in float32.

    Example:
        >>> to_picture(np.zeros((2, 3), np.uint8)).mode, to_picture(np.zeros((2, 3), np.float32)).mode
        ('RGB', 'F')
    """
    image = Image.fromarray(pixels)
    return image if image.mode == "F" else image.convert("RGB")


def narrow_warning(low: float, high: float, darkest: float, brightest: float) -> str | None:
    """The warning for an image whose values fill less than a tenth of their range; None for any other.

    Such an image reaches the model in few gray levels: 12-bit values in a 16-bit file in 17 of 256.

    Example:
        >>> (narrow_warning(0, 4095, 0, 65535) or "").partition(";")[0]
        'values 0 to 4095 fill 6.2% of 0 to 65535, so few gray levels are left'
        >>> narrow_warning(0, 65000, 0, 65535) is None
        True
    """
    share = (high - low) / (brightest - darkest)
    if not 0 < share < _NARROW:
        return None
    return (
        f"values {low:.10g} to {high:.10g} fill {share:.1%} of {darkest:.10g} to {brightest:.10g}, so few gray "
        "levels are left; --value-range auto or LOW,HIGH spreads them"
    )


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
        >>> import io
        >>> gray_range(Image.new("F", (1, 1)), io.BytesIO()).high
        1
        >>> gray_range(Image.new("RGB", (1, 1)), io.BytesIO()) is None
        True
    """
    default = _DEFAULTS.get(image.mode)
    if default is None or not isinstance(image, (TiffImageFile, PngImageFile)):
        return default
    if isinstance(image, PngImageFile):
        bits = significant_bits(stream)
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


def range_of(dtype: np.dtype[Any]) -> GrayRange:
    """The range of values that were read without Pillow, by their type.

    Example:
        >>> range_of(np.dtype(np.uint16)).high
        65535
    """
    if dtype.kind == "f":
        return _DEFAULTS["F"]
    if dtype.itemsize == 1:
        return GrayRange(0, 255, "8-bit", "") if dtype.kind == "u" else GrayRange(0, 127, "signed 8-bit", "")
    return _DEFAULTS["I;16" if dtype == np.uint16 else "I"]
