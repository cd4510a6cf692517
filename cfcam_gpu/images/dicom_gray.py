"""Grayscale of DICOM files: from stored values through modality and VOI transformations to 8 bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cfcam_gpu.errors import ImageError
from cfcam_gpu.images.gray_range import Reduced, narrow_warning, scaled_to_8_bit
from cfcam_gpu.images.read_options import ValueRange

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

#: Values that are transformed at once.
_BLOCK = 1 << 20

Values = npt.NDArray[Any]


class Gray:
    """The gray values of a file, from the elements of its data set (empty ones removed)."""

    def __init__(self, data: Dataset) -> None:
        self.data = data
        self.signed = bool(data.get("PixelRepresentation"))
        self.modality = _Table(data.ModalityLUTSequence[0]) if data.get("ModalityLUTSequence") else None
        self.voi = _Table(data.VOILUTSequence[0]) if data.get("VOILUTSequence") else None
        self.slope = _first(data, "RescaleSlope", 1.0)
        self.intercept = _first(data, "RescaleIntercept", 0.0)
        self.windows = _windows(data)

    def reduced(self, pixels: Values, value_range: ValueRange | None, *, rounded: bool = True) -> Reduced:
        """Stored values (height, width) as 8 bits, black at 0, with what was done.

        Args:
            value_range: of values after the modality transformation; takes the place of VOI LUT and window.
            rounded: False: float32, with the levels of the values.
        """
        padding = self._padding(pixels)
        seen = pixels if padding is None else pixels[~padding]
        low, high, transform, steps, warning = self._display(seen if seen.size else pixels, value_range)
        if low == high or not np.isfinite([low, high]).all():
            raise ImageError(f"truncated or corrupt: it declares values from {low:g} to {high:g}")
        gray: Values = np.empty(pixels.shape, np.uint8 if rounded else np.float32)
        rows = max(1, _BLOCK // max(1, pixels.shape[1]))
        for start in range(0, len(pixels), rows):
            block = slice(start, start + rows)
            values = transform(self._rescaled(pixels[block]))
            gray[block] = scaled_to_8_bit(values, low, high, rounded=rounded)
        if self.data.PhotometricInterpretation == "MONOCHROME1":
            gray, steps = 255 - gray, [*steps, "MONOCHROME1 inverted"]
        if padding is not None:
            gray[padding] = 0
            steps = [*steps, "padding black"]
        return Reduced(gray, steps, warning)

    def _display(
        self, seen: Values, value_range: ValueRange | None
    ) -> tuple[float, float, Callable[[Values], Values], list[str], str | None]:
        """Values that become black and white, what comes before, the notes and the warning."""
        if value_range is not None:
            low, high = value_range.limits(self._rescaled(seen))
            return low, high, _same, [f"{low:.10g} to {high:.10g} (value range {value_range})"], None
        if self.voi is not None:
            return 0.0, 2.0**self.voi.bits - 1, self.voi, ["VOI LUT"], None
        finite = [window for window in self.windows if np.isfinite(window).all()]
        usable = [window for window in finite if window[1] > 0]
        notes = ["window that is no number left out"] if len(finite) < len(self.windows) else []
        notes += ["window of width 0 left out"] if len(usable) < len(finite) else []
        if usable:
            low, high = self._range()
            return (
                low,
                high,
                self._window(*usable[0], low, high),
                [*notes, self._window_note(*usable[0])],
                None,
            )
        low, high = sorted(self._range())
        values = (
            self._rescaled(np.array([seen.min(), seen.max()]))
            if self.modality is None
            else self._rescaled(seen)
        )
        warning = narrow_warning(float(values.min()), float(values.max()), low, high) if high > low else None
        return low, high, _same, [*notes, f"full range {low:g} to {high:g}"], warning

    def _rescaled(self, pixels: Values) -> Values:
        if self.modality is not None:
            return self.modality(pixels)
        if self.slope == 1 and self.intercept == 0:
            return pixels
        return pixels * np.float64(self.slope) + self.intercept

    def _range(self) -> tuple[float, float]:
        """The smallest and the largest possible value after the modality LUT or rescale."""
        if self.modality is not None:
            return 0.0, 2.0**self.modality.bits - 1
        bits = int(self.data.BitsStored)
        low, high = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if self.signed else (0.0, 2.0**bits - 1)
        return low * self.slope + self.intercept, high * self.slope + self.intercept

    def _function(self, width: float) -> str:
        function = str(self.data.get("VOILUTFunction") or "LINEAR").upper()
        # The linear function needs a width of at least 1 (PS3.3 C.11.2.1.2.1); narrower ones are meant exactly.
        return "LINEAR_EXACT" if function == "LINEAR" and width < 1 else function

    def _window(self, center: float, width: float, low: float, high: float) -> Callable[[Values], Values]:
        """The window's function (PS3.3 C.11.2.1), whose output is from `low` to `high`."""
        function = self._function(width)
        if function == "SIGMOID":
            return lambda values: (high - low) / (1 + np.exp(-4 * (values - center) / width)) + low
        if function not in ("LINEAR", "LINEAR_EXACT"):
            raise ImageError(f"truncated or corrupt: VOILUTFunction {function!r} is none that DICOM knows")
        if function == "LINEAR":
            center, width = center - 0.5, width - 1
        if width == 0:
            return lambda values: np.where(values <= center, low, high)
        return lambda values: np.clip((values - center) / width + 0.5, 0, 1) * (high - low) + low

    def _window_note(self, center: float, width: float) -> str:
        function = self._function(width)
        shape = "" if function == "LINEAR" else f" {function}"
        first = f" (first of {len(self.windows)})" if len(self.windows) > 1 else ""
        return f"window {center:g}/{width:g}{shape}{first}"

    def _padding(self, pixels: Values) -> npt.NDArray[np.bool_] | None:
        """Where the picture is padded; None: nowhere."""
        value = self.data.get("PixelPaddingValue")
        if value is None:
            return None
        limit = self.data.get("PixelPaddingRangeLimit", value)
        # Where the file does not say how they are represented, they may come with the wrong sign.
        low, high = sorted(int(np.array(int(v)).astype(pixels.dtype)) for v in (value, limit))
        padding: npt.NDArray[np.bool_] = (pixels >= low) & (pixels <= high)
        return padding if padding.any() else None


class _Table:
    """A lookup table: values below its first one get its first entry, those above its end the last.

    Its numbers are unsigned by the standard except the first value, whatever sign they were read with.
    """

    def __init__(self, item: Dataset) -> None:
        entries, first, self.bits = (int(value) for value in item.LUTDescriptor)
        self.first = first
        count = entries % 2**16 or 2**16
        values = item.LUTData
        if isinstance(values, bytes):
            values = np.frombuffer(values, "<u2" if len(values) >= 2 * count else "u1")[:count]
        self.values = (np.atleast_1d(np.asarray(values)).astype(np.int64) % 2**16).astype(np.uint16)
        if not self.values.size or not 1 <= self.bits <= 16:
            raise ImageError(
                f"truncated or corrupt: a lookup table of {self.values.size} entries of {self.bits} bits"
            )

    def __call__(self, values: Values) -> Values:
        index = np.clip(np.asarray(values, np.float64) - self.first, 0, len(self.values) - 1)
        return self.values[index.astype(np.int64)]


def _same(values: Values) -> Values:
    return values


def _first(data: Dataset, keyword: str, otherwise: float) -> float:
    value = data.get(keyword)
    return otherwise if value is None else float(np.atleast_1d(value)[0])


def _windows(data: Dataset) -> list[tuple[float, float]]:
    """(centre, width) of every window."""
    if data.get("WindowCenter") is None or data.get("WindowWidth") is None:
        return []
    centers, widths = (np.atleast_1d(data[name].value) for name in ("WindowCenter", "WindowWidth"))
    return [(float(center), float(width)) for center, width in zip(centers, widths, strict=False)]
