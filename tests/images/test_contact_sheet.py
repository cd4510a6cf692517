"""The contact sheet shows every picture whole, in its aspect, in its place, with legible captions."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cfcam_gpu.errors import ConfigError
from cfcam_gpu.images.contact_sheet import (
    COLUMN,
    ENTRY,
    GAP,
    GUTTER,
    HEADER,
    MARGIN,
    SLOT,
    WIDTH,
    Entry,
    Strip,
    draw_contact_sheet,
)
from cfcam_gpu.images.overlay import colorize

RED, GREEN, BLUE = (200, 30, 30), (30, 160, 60), (40, 60, 210)


def entry(size: tuple[int, int] = (300, 200), title: str = "tabby, 79%") -> Entry:
    photo, heatmap, overlay = (Image.new("RGB", size, colour) for colour in (RED, GREEN, BLUE))
    return Entry(photo, heatmap, overlay, title, "2 clusters, 23% noise")


def sheet_of(*entries: Entry, strip: Strip | None = None, cmap: str = "inferno") -> np.ndarray:
    return np.asarray(draw_contact_sheet(entries, strip, title="Title", subtitle="Subtitle", cmap=cmap))


def extent(sheet: np.ndarray, colour: tuple[int, int, int]) -> list[tuple[int, int, int, int]]:
    """(left, top, right, bottom) of all pixels of a colour, one box for each column of entries."""
    boxes = []
    middle = MARGIN + COLUMN + GUTTER // 2
    for start, stop in ((0, middle), (middle, WIDTH)):
        y, x = np.nonzero((np.abs(sheet[:, start:stop].astype(int) - colour) < 3).all(2))
        if len(y):
            boxes.append((start + x.min(), y.min(), start + x.max() + 1, y.max() + 1))
    return boxes


@pytest.mark.parametrize(
    ("size", "shown"), [((300, 100), (SLOT[0], SLOT[0] / 3)), ((200, 200), (SLOT[1], SLOT[1]))]
)
def test_pictures_keep_their_aspect_and_stand_side_by_side_in_their_slots(size, shown):
    sheet = sheet_of(entry(size))
    for slot, colour in enumerate((RED, GREEN, BLUE)):
        ((left, top, right, bottom),) = extent(sheet, colour)
        np.testing.assert_allclose((right - left, bottom - top), shown, atol=1)
        centre = MARGIN + slot * (SLOT[0] + GAP) + SLOT[0] / 2, HEADER + SLOT[1] / 2
        np.testing.assert_allclose(((left + right) / 2, (top + bottom) / 2), centre, atol=1)


def test_entries_go_two_to_a_row():
    sheet = sheet_of(entry(), entry(), entry())
    (left, top, _, bottom), (right_left, right_top, _, right_bottom) = extent(sheet, RED)
    assert right_left - left == COLUMN + GUTTER
    assert (top, right_top) == (HEADER, HEADER)
    assert bottom - top > ENTRY > right_bottom - right_top
    assert sheet.shape[1] == WIDTH


def test_the_strip_is_the_last_row_over_the_full_width():
    strip = Strip(
        "Two questions", [(Image.new("RGB", (200, 100), RED), text) for text in ("one", "two", "three")]
    )
    plain, sheet = sheet_of(entry()), sheet_of(entry(), strip=strip)
    below = sheet[HEADER + ENTRY :]
    red = (np.abs(below.astype(int) - RED) < 3).all(2)
    columns = np.nonzero(red.any(0))[0]
    assert columns.min() == MARGIN
    assert columns.max() >= WIDTH - MARGIN - 3
    assert sheet.shape[0] > plain.shape[0] + 100
    np.testing.assert_array_equal(sheet[: HEADER + ENTRY - 4], plain[: HEADER + ENTRY - 4])


def test_a_caption_too_long_is_shortened_and_never_runs_into_the_detail():
    short, long = sheet_of(entry(title="tabby")), sheet_of(entry(title="tabby " * 60))
    caption = slice(HEADER + SLOT[1], HEADER + ENTRY)
    detail = slice(MARGIN + COLUMN - 150, WIDTH)
    assert (short[caption] != long[caption]).any()
    np.testing.assert_array_equal(short[caption, detail], long[caption, detail])


@pytest.mark.parametrize("cmap", ["inferno", "jet"])
def test_the_colour_bar_runs_from_0_to_1_in_the_colour_map_used(cmap):
    sheet = sheet_of(entry(), cmap=cmap)
    bar = colorize(np.linspace(0, 1, 300, dtype=np.float32)[None], cmap)[0]
    rows = [y for y in range(HEADER) if (sheet[y, WIDTH - MARGIN - 300 : WIDTH - MARGIN] == bar).all()]
    assert len(rows) == 18


def test_an_empty_sheet_is_refused():
    with pytest.raises(ConfigError, match="a contact sheet needs at least one picture, got none"):
        draw_contact_sheet([], None, title="", subtitle="")


def test_columns_have_the_headings_that_are_asked_for():
    plain = np.asarray(draw_contact_sheet([entry()], title="", subtitle=""))
    named = np.asarray(draw_contact_sheet([entry()], title="", subtitle="", headings=("photo", "one", "two")))
    changed = np.nonzero((plain != named).any((0, 2)))[0]
    assert (changed >= MARGIN + SLOT[0]).all()
    assert len(changed)
    with pytest.raises(ConfigError, match=r"headings must be three texts, got \['photo'\]"):
        draw_contact_sheet([entry()], title="", subtitle="", headings=("photo",))
