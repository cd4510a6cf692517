"""Files of several pages or frames: which one is read, and the note that says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from cfcam_gpu.errors import ImageError

#: NewSubfileType; its first bit says that the page is a smaller copy of another one.
_SUBFILE_TYPE = 254

#: Pages of a TIFF whose sizes are looked at. Pyramids have fewer levels.
_MOST_PAGES = 64

#: Formats whose frames are an animation. (The others' are previews or layers.)
_ANIMATED = frozenset(("GIF", "WEBP", "PNG", "AVIF", "FLI", "DCX"))

#: A page this many times as wide and as high as the first, with the same aspect ratio, is the image itself.
_PYRAMID_STEP = 1.9
_ASPECT_TOLERANCE = 0.03


class Page(NamedTuple):
    """Size of a page in pixels, and whether the file says that it is a smaller copy of another one."""

    width: int
    height: int
    reduced: bool


def chosen_page(pages: Sequence[Page]) -> int:
    """Which page of a TIFF is the image: the first, or the largest of a pyramid that begins with a thumbnail.

    Raises:
        ImageError: every page is a smaller copy of an image that cannot be read.

    Example:
        >>> chosen_page([Page(100, 80, False), Page(900, 720, False), Page(400, 320, False)])
        1
        >>> chosen_page([Page(100, 80, False), Page(900, 300, False)])
        0
    """
    whole = [i for i, page in enumerate(pages) if not page.reduced]
    if not whole:
        raise ImageError(
            "the TIFF holds only a small copy of its image in a form that is read (a raw photo?); convert it to a "
            "plain TIFF or PNG"
        )
    first = pages[whole[0]]
    larger = [i for i in whole if _is_larger_copy(pages[i], first)]
    return max(larger, key=lambda i: pages[i].width, default=whole[0])


def _is_larger_copy(page: Page, first: Page) -> bool:
    if min(page.width / first.width, page.height / first.height) < _PYRAMID_STEP:
        return False
    ratio = page.width * first.height / (page.height * first.width)
    return abs(ratio - 1) <= _ASPECT_TOLERANCE


def page_note(chosen: int, count: int) -> list[str]:
    """What the row says about the page, as a list of at most one text.

    Example:
        >>> page_note(0, 3), page_note(2, 3), page_note(0, 1)
        (['first of 3 pages'], ['page 3 of 3, the full size'], [])
    """
    if count == 1:
        return []
    return [f"page {chosen + 1} of {count}, the full size" if chosen else f"first of {count} pages"]


def turn_to_page(image: Image.Image) -> list[str]:
    """Turns an opened TIFF to the page that is its image. Returns the note, also for animations (see `page_note`).

    Raises:
        ImageError: as `chosen_page`.
    """
    if not isinstance(image, TiffImageFile):
        frames = _frame_count(image) if image.format in _ANIMATED else 1
        return [f"first of {frames} frames"] if frames > 1 else []
    count = _frame_count(image)
    pages = [_page(image, number) for number in range(min(count, _MOST_PAGES))]
    readable = [number for number, page in enumerate(pages) if page is not None]
    chosen = readable[chosen_page([page for page in pages if page is not None])] if readable else 0
    if image.tell() != chosen:
        image.seek(chosen)
    return page_note(chosen, count)


def _frame_count(image: Image.Image) -> int:
    """1 where later frames are damaged: the first one counts."""
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # the plugins raise nearly anything on damaged files
        image.seek(0)
        return 1


def _page(image: TiffImageFile, number: int) -> Page | None:
    try:
        if image.tell() != number:
            image.seek(number)
    except Exception:  # a page of a kind that Pillow does not read
        return None
    return Page(*image.size, bool(int(image.tag_v2.get(_SUBFILE_TYPE) or 0) & 1))
