"""The contact sheet: photos, heatmaps and overlays in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from cfcam_gpu.errors import ConfigError
from cfcam_gpu.images.overlay import colorize

WIDTH = 1440
MARGIN = 44
GUTTER = 48
GAP = 8
COLUMN = (WIDTH - 2 * MARGIN - GUTTER) // 2
SLOT = ((COLUMN - 2 * GAP) // 3, 142)
HEADER = 132
ENTRY = SLOT[1] + 58
_STRIP_GAP = 16

_PAPER = "#ffffff"
_INK = "#16181d"
_FAINT = "#6a7080"
_RULE = "#dfe2e8"

#: What the three pictures of an entry are, unless told otherwise.
HEADINGS = ("photo", "heatmap", "overlay")


@dataclass(frozen=True)
class Entry:
    """One explained photo: three pictures of the same aspect ratio, and two texts below them.

    Attributes:
        photo, heatmap, overlay: from left to right, or others for which the sheet has headings.
        title: on the left.
        detail: on the right, smaller.
    """

    photo: Image.Image
    heatmap: Image.Image
    overlay: Image.Image
    title: str
    detail: str


@dataclass(frozen=True)
class Strip:
    """The last row of the sheet.

    Attributes:
        title: above the pictures.
        pictures: pictures with their captions, shown side by side.
    """

    title: str
    pictures: Sequence[tuple[Image.Image, str]]


def draw_contact_sheet(
    entries: Sequence[Entry],
    strip: Strip | None = None,
    *,
    title: str,
    subtitle: str,
    cmap: str = "inferno",
    headings: Sequence[str] = HEADINGS,
) -> Image.Image:
    """Draws the sheet, `WIDTH` pixels wide: two entries per row, then the strip over the full width.

    Args:
        entries: the explained photos.
        strip: the last row; None: there is none.
        title, subtitle: texts at the top.
        cmap: the colour map of the heatmaps, shown as a bar at the top.
        headings: three texts above the columns of the entries' pictures.

    Raises:
        ConfigError: no entry and no strip, an unknown colour map, or not three headings.

    Example:
        >>> photo = Image.new("RGB", (30, 20))
        >>> entry = Entry(photo, photo, photo, title="tabby, 79%", detail="2 clusters")
        >>> sheet = draw_contact_sheet([entry], title="One photo", subtitle="CF-CAM")
        >>> sheet.width == WIDTH, sheet.mode
        (True, 'RGB')
    """
    if not entries and (strip is None or not strip.pictures):
        raise ConfigError("a contact sheet needs at least one picture, got none")
    if len(headings) != len(HEADINGS):
        raise ConfigError(f"headings must be three texts, got {list(headings)}")
    rows = (len(entries) + 1) // 2
    body = HEADER + rows * ENTRY
    sheet = Image.new("RGB", (WIDTH, body + _strip_height(strip) + MARGIN // 2), _PAPER)
    _draw_header(sheet, title, subtitle, cmap)
    for index, entry in enumerate(entries):
        row, column = divmod(index, 2)
        _draw_entry(sheet, entry, MARGIN + column * (COLUMN + GUTTER), HEADER + row * ENTRY)
    if entries:
        _draw_headings(sheet, headings, columns=min(len(entries), 2))
    if strip is not None and strip.pictures:
        _draw_strip(sheet, strip, body)
    return sheet


def _draw_header(sheet: Image.Image, title: str, subtitle: str, cmap: str) -> None:
    _text(sheet, (MARGIN, 30), title, 34, room=WIDTH - 2 * MARGIN - 340)
    _text(sheet, (MARGIN, 72), subtitle, 19, _FAINT, room=WIDTH - 2 * MARGIN - 340)
    width, height = 300, 18
    left, top = WIDTH - MARGIN - width, 40
    ramp = np.tile(np.linspace(0, 1, width, dtype=np.float32), (height, 1))
    sheet.paste(Image.fromarray(colorize(ramp, cmap)), (left, top))
    for text, x, anchor in (
        ("0", left, "la"),
        ("evidence", left + width // 2, "ma"),
        ("1", left + width, "ra"),
    ):
        _text(sheet, (x, top + height + 6), text, 17, _FAINT, anchor)


def _draw_headings(sheet: Image.Image, headings: Sequence[str], columns: int) -> None:
    for column in range(columns):
        for slot, heading in enumerate(headings):
            x = MARGIN + column * (COLUMN + GUTTER) + slot * (SLOT[0] + GAP) + SLOT[0] // 2
            _text(sheet, (x, HEADER - 8), heading, 17, _FAINT, "ms")


def _draw_entry(sheet: Image.Image, entry: Entry, left: int, top: int) -> None:
    for slot, picture in enumerate((entry.photo, entry.heatmap, entry.overlay)):
        _paste(sheet, picture, (left + slot * (SLOT[0] + GAP), top), SLOT)
    baseline = top + SLOT[1] + 30
    used = _text(sheet, (left + COLUMN, baseline), entry.detail, 17, _FAINT, "rs", room=COLUMN // 2)
    _text(sheet, (left, baseline), entry.title, 24, _INK, "ls", room=COLUMN - used - 16)


def _draw_strip(sheet: Image.Image, strip: Strip, top: int) -> None:
    ImageDraw.Draw(sheet).line([(MARGIN, top), (WIDTH - MARGIN, top)], _RULE, 2)
    _text(sheet, (MARGIN, top + 22), strip.title, 26, room=WIDTH - 2 * MARGIN)
    width, height = _strip_slot(strip)
    for slot, (picture, caption) in enumerate(strip.pictures):
        left = MARGIN + slot * (width + _STRIP_GAP)
        _paste(sheet, picture, (left, top + 68), (width, height))
        _text(sheet, (left + width // 2, top + 68 + height + 32), caption, 24, _INK, "ms", room=width)


def _strip_slot(strip: Strip) -> tuple[int, int]:
    """(width, height) of each picture's slot: equal widths, and the height of the flattest picture at that width."""
    width = (WIDTH - 2 * MARGIN - _STRIP_GAP * (len(strip.pictures) - 1)) // len(strip.pictures)
    return width, min(round(width * picture.height / picture.width) for picture, _ in strip.pictures)


def _strip_height(strip: Strip | None) -> int:
    return 0 if strip is None or not strip.pictures else 68 + _strip_slot(strip)[1] + 50


def _paste(sheet: Image.Image, picture: Image.Image, corner: tuple[int, int], box: tuple[int, int]) -> None:
    """Pastes the whole picture, keeping its aspect ratio, centred in a box of (width, height) at `corner`."""
    fitted = ImageOps.contain(picture.convert("RGB"), box, Image.Resampling.LANCZOS)
    sheet.paste(fitted, (corner[0] + (box[0] - fitted.width) // 2, corner[1] + (box[1] - fitted.height) // 2))


def _text(
    sheet: Image.Image,
    position: tuple[int, int],
    text: str,
    size: int,
    fill: str = _INK,
    anchor: str = "la",
    room: int | None = None,
) -> int:
    """Draws one line of text, shortened to `room` pixels; returns its width in pixels."""
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size)
    if room is not None and draw.textlength(text, font) > room:
        while text and draw.textlength(text + "...", font) > room:
            text = text[:-1]
        text = text.rstrip() + "..."
    draw.text(position, text, fill, font, anchor)
    return round(draw.textlength(text, font))
