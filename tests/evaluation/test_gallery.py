"""The gallery: which images it shows, and what stands in for what it cannot show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from cfcam_gpu.evaluation.gallery import gallery
from cfcam_gpu.images.overlay import draw_overlay, upsample_grid
from tests.helpers.evaluation_tables import METHODS, VIEW, as_table, made_rows, row


def test_the_gallery_shows_each_methods_map_over_the_view(photos: list[Image.Image], tmp_path: Path):
    photos[0].save(tmp_path / "cat.png")
    rows = [row(0, method, i, uri=str(tmp_path / "cat.png")) for i, method in enumerate(METHODS[:2])]
    ((photo, first, second),) = gallery(as_table(rows), METHODS[:2], VIEW, 5)
    assert photo.caption == "photos/000.jpg\nEgyptian cat 75%"
    np.testing.assert_array_equal(photo.pixels, VIEW(photos[0]))
    assert photo.pixels is not None
    for picture, r in zip((first, second), rows, strict=True):
        np.testing.assert_array_equal(
            picture.pixels, draw_overlay(photo.pixels, upsample_grid(r["grid"], (96, 96)), alpha=0.5)
        )


def test_the_gallery_says_what_it_cannot_show():
    rows = [row(0, "gradcam", 0), row(0, "cfcam", 1, grid=None), row(1, "gradcam", 0)]
    (pictures,) = gallery(as_table(rows), METHODS, VIEW, 5)  # the image that more methods explained
    assert pictures[0].note == "cannot be shown: the file does not exist"
    assert [picture.pixels for picture in pictures] == [None] * 4


def test_the_images_are_spread_over_the_run():
    captions = [
        pictures[0].caption.split("\n")[0] for pictures in gallery(as_table(made_rows(21)), METHODS, VIEW, 5)
    ]
    assert captions == [f"photos/{i:03}.jpg" for i in (0, 5, 10, 15, 20)]


def test_long_names_keep_what_tells_them_apart():
    long = {"sample_id": "a/folder/of/photos/the cat.jpg", "target_name": "a very long name of a class"}
    ((photo, _),) = gallery(as_table([row(0, "cfcam", 0, **long)]), ["cfcam"], VIEW, 1)
    assert photo.caption == "…/photos/the cat.jpg\na very long nam… 75%"
