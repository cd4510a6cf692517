"""TIFF files that Pillow reads wrong or not at all, read by tifffile: planes of 16 bits, floats, signed bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL.TiffImagePlugin import TiffImageFile

from cfcam_gpu.errors import ImageError
from cfcam_gpu.images.limits import check_pixels
from cfcam_gpu.images.pages import Page, chosen_page, page_note

#: What a TIFF begins with: classic and BigTIFF, both byte orders.
_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

#: TIFF tags, and values of theirs.
_BITS, _COMPRESSION, _ORIENTATION, _PLANAR, _SAMPLE_FORMAT = 258, 259, 274, 284, 339
_UNCOMPRESSED, _SEPARATE, _UNSIGNED, _SIGNED = 1, 2, 1, 2

#: Photometric interpretations: WhiteIsZero, BlackIsZero, RGB.
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2

#: Values of ExtraSamples that mean opacity.
_ALPHA = (1, 2)


def is_tiff(stream: BinaryIO) -> bool:
    """Whether a file begins as a TIFF does; the stream ends at its start.

    Example:
        >>> import io
        >>> is_tiff(io.BytesIO(b"MM\\0*")), is_tiff(io.BytesIO(b"GIF89a"))
        (True, False)
    """
    stream.seek(0)
    start = stream.read(4)
    stream.seek(0)
    return start in _STARTS


def pillow_misreads(image: TiffImageFile) -> bool:
    """Whether Pillow gives other pixels than the file holds: uncompressed planes of 16 bits, signed bytes."""
    bits = max(np.atleast_1d(image.tag_v2.get(_BITS, 1)))
    planes = image.tag_v2.get(_PLANAR) == _SEPARATE and image.tag_v2.get(_COMPRESSION) == _UNCOMPRESSED
    signed = _SIGNED in np.atleast_1d(image.tag_v2.get(_SAMPLE_FORMAT, 1))
    return bool((planes and bits > 8) or (signed and bits == 8))


def is_unsigned_32(image: TiffImageFile) -> bool:
    """Whether a gray file holds unsigned integers of 32 bits."""
    bits, kind = (np.atleast_1d(image.tag_v2.get(tag, 1)) for tag in (_BITS, _SAMPLE_FORMAT))
    return bool(image.mode == "I" and bits[0] == 32 and kind[0] == _UNSIGNED)


class TiffValues(NamedTuple):
    """The values of a TIFF's image as they are stored.

    Attributes:
        values: (height, width) gray, or (height, width, channels) with 2 (gray, opacity), 3 (RGB) or 4 (RGB,
            opacity) channels.
        inverted: 0 is white.
        orientation: as in EXIF, 1 to 8.
        steps: the note about the page.
    """

    values: npt.NDArray[Any]
    inverted: bool
    orientation: int
    steps: list[str]


def read_tiff(stream: BinaryIO, max_pixels: int, page: int | None = None) -> TiffValues:
    """The image of a TIFF, read without Pillow.

    Args:
        stream: the file, at any position.
        page: which page; None: see `chosen_page`.

    Raises:
        ImageError: too many pixels, or neither gray nor RGB. Damaged files raise nearly anything.
    """
    import tifffile

    stream.seek(0)
    with tifffile.TiffFile(stream) as file:
        notes = []
        if page is None:
            pages = [Page(p.imagewidth, p.imagelength, bool(p.subfiletype & 1)) for p in _pages(file)]
            page = chosen_page(pages)
            notes = page_note(page, len(pages))
        chosen = file.pages[page]
        assert isinstance(chosen, tifffile.TiffPage)
        check_pixels(chosen.imagewidth, chosen.imagelength, max_pixels)
        if chosen.imagedepth != 1 or chosen.samplesperpixel > 4:
            raise ImageError(f"a TIFF of {chosen.samplesperpixel} bands, expected 1 (gray), 3 (RGB) or 4")
        values = chosen.asarray()
        if values.dtype.kind == "c":
            raise ImageError("a TIFF of complex numbers; save their magnitude or their phase")
        if chosen.planarconfig == _SEPARATE and values.ndim == 3:
            values = np.moveaxis(values, 0, -1)
        orientation = chosen.tags.get(_ORIENTATION)
        return TiffValues(
            _channels(values, chosen),
            chosen.photometric == _WHITE_IS_ZERO,
            1 if orientation is None else int(orientation.value),
            notes,
        )


def _pages(file: Any) -> Iterator[Any]:
    """The pages, until one comes again: in a damaged file the last may name an earlier one as the next."""
    offsets: set[int] = set()
    for page in file.pages:
        if page.offset in offsets:
            return
        offsets.add(page.offset)
        yield page


def _channels(values: npt.NDArray[Any], page: Any) -> npt.NDArray[Any]:
    """The gray or RGB channels, with opacity where the file says that it is; other bands are left out."""
    if page.photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB):
        raise ImageError(
            f"a TIFF of the kind {page.photometric.name} and {page.dtype}; save it as RGB of 8 or 16 bits"
        )
    if values.ndim == 2:
        return values
    colours = 3 if page.photometric == _RGB else 1
    has_alpha = values.shape[2] == colours + 1 and page.extrasamples[:1] and page.extrasamples[0] in _ALPHA
    if values.shape[2] != colours + bool(has_alpha):
        raise ImageError(f"a TIFF of {values.shape[2]} bands, expected 1 (gray), 3 (RGB) or opacity besides")
    return values[..., 0] if values.shape[2] == 1 else values
