"""Small JPEGs of the originals."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from PIL import Image

from cfcam_gpu.dataset.sources.open_image import open_image
from cfcam_gpu.dataset.store.schema import Row
from cfcam_gpu.errors import ImageError

QUALITY = 82


@dataclass(frozen=True)
class Picture:
    """A JPEG, or None with the reason; width and height are the original's, in pixels."""

    jpeg: bytes | None
    reason: str | None = None
    width: int | None = None
    height: int | None = None


def make_pictures(rows: Iterable[Row], side: int) -> Iterator[Picture]:
    """One picture per row, in order, its longer side at most `side` pixels; decoded in threads."""
    with ThreadPoolExecutor() as pool:  # Pillow decodes and resizes without Python's lock
        yield from pool.map(lambda row: _picture(row, side), rows)


def _picture(row: Row, side: int) -> Picture:
    if row["stage"] in ("read", "decode"):
        return Picture(None, "it could not be decoded")
    try:
        image = open_image(row["uri"])
    except ImageError as error:
        return Picture(None, str(error))
    width, height = image.size
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=QUALITY)
    return Picture(encoded.getvalue(), None, width, height)
