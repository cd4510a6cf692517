"""The originals as small JPEGs, for the page."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby

from PIL import Image

from cfcam_gpu.dataset.sources.open_image import open_image
from cfcam_gpu.dataset.store.schema import Row
from cfcam_gpu.errors import ImageError
from cfcam_gpu.images.limits import MAX_PIXELS

#: Of JPEG, 0 to 95.
_QUALITY = 82


@dataclass(frozen=True)
class Picture:
    """A small picture of an original.

    Attributes:
        jpeg: the picture; None: it could not be made.
        reason: why not.
        width, height: of the original, in pixels.
    """

    jpeg: bytes | None
    reason: str | None = None
    width: int | None = None
    height: int | None = None


def make_pictures(rows: Iterable[Row], side: int, value_range: str | None = None) -> Iterator[Picture]:
    """One picture for each row, in order; the images are decoded in threads.

    Consecutive rows of one image get the same picture.

    Args:
        rows: the samples.
        side: at most so many pixels on the longer side.

    Example:
        >>> row = {"stage": None, "uri": "/no/such/file.png"}
        >>> [picture.reason for picture in make_pictures([row], side=100)]
        ['the file does not exist']
    """
    images = [list(group) for _, group in groupby(rows, key=lambda row: row["uri"])]
    with ThreadPoolExecutor() as pool:  # Pillow decodes and resizes without holding Python's lock
        pictures = pool.map(lambda group: _picture(group[0], side, value_range), images)
        for group, picture in zip(images, pictures, strict=True):
            yield from [picture] * len(group)


def _picture(row: Row, side: int, value_range: str | None) -> Picture:
    if row["stage"] in ("read", "decode"):
        return Picture(None, "it could not be decoded")
    try:
        # A run with --max-pixels may have read an image that is larger than usual.
        pixels = (row.get("width") or 0) * (row.get("height") or 0)
        image = open_image(row["uri"], max(MAX_PIXELS, pixels), value_range)
    except ImageError as error:
        return Picture(None, str(error))
    width, height = image.size
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=_QUALITY)
    return Picture(encoded.getvalue(), None, width, height)
