"""What a reader may choose about an image: the values that become black and white, and the most pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cfcam_gpu.images.limits import MAX_PIXELS

if TYPE_CHECKING:  # the command's options name the forms of a range without it
    import numpy.typing as npt

#: The forms of a value range, for messages.
VALUE_RANGES = "LOW,HIGH, auto or percentile:P"


@dataclass(frozen=True)
class ValueRange:
    """Which values of an image of more than 8 bits per channel become black and white.

    Attributes:
        low, high: these become 0 and 255, and values beyond them too; None: taken from each image.
        percentile: where they are taken from each image, the percentiles P and 100 - P of its values;
            0: the smallest and the largest.

    Example:
        >>> import numpy as np
        >>> ValueRange.parse("0,4095").limits(np.array([7, 900]))
        (0.0, 4095.0)
        >>> ValueRange.parse("auto").limits(np.array([7, 900]))
        (7.0, 900.0)
        >>> str(ValueRange.parse("percentile:1"))
        'percentile:1'
    """

    low: float | None = None
    high: float | None = None
    percentile: float = 0.0

    @classmethod
    def parse(cls, text: str) -> ValueRange:
        """The range that a text names.

        Raises:
            ValueError: no such range; the message completes a sentence that begins with its name.
        """
        try:
            return cls._parse(text.strip().lower())
        except ValueError:
            raise ValueError(
                f"must be {VALUE_RANGES} with LOW below HIGH and P from 0 to below 50, got {text!r}"
            ) from None

    @classmethod
    def _parse(cls, text: str) -> ValueRange:
        if text == "auto":
            return cls()
        if text.startswith("percentile:"):
            percentile = float(text.removeprefix("percentile:"))
            if not 0 <= percentile < 50:
                raise ValueError
            return cls(percentile=percentile)
        low, high = (float(part) for part in text.split(","))
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError
        return cls(low, high)

    def limits(self, values: npt.NDArray[Any]) -> tuple[float, float]:
        """(low, high) for an image's values; `high` is above `low` also where all values are equal."""
        if self.low is not None and self.high is not None:
            return self.low, self.high
        if self.percentile:
            import numpy as np

            low, high = np.percentile(values, [self.percentile, 100 - self.percentile])
        else:
            low, high = values.min(), values.max()
        return float(low), float(high) if high > low else float(low) + 1.0

    def __str__(self) -> str:
        if self.low is not None and self.high is not None:
            return f"{self.low:.10g},{self.high:.10g}"
        return f"percentile:{self.percentile:.10g}" if self.percentile else "auto"


@dataclass(frozen=True)
class ReadOptions:
    """How image files are read.

    Attributes:
        value_range: for images of more than 8 bits per channel; None: the range that the file declares or can
            store, the window of a DICOM file.
        max_pixels: the most pixels of an image.
        fine_gray: gray images of more than 8 bits keep their levels, in an image of mode F with values from 0 to
            255, for models of one channel.

    Example:
        >>> ReadOptions().max_pixels
        89478485
    """

    value_range: ValueRange | None = None
    max_pixels: int = MAX_PIXELS
    fine_gray: bool = False
