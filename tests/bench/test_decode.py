"""The compared decoders give images of the size that was asked for, and differences are in levels."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from bench import decode, scaled_views


@pytest.fixture
def path(tmp_path: Path) -> Path:
    decode.photo((203, 150), 0).save(tmp_path / "x.jpg", quality=90)
    return tmp_path / "x.jpg"


def test_every_decoder_gives_the_size_of_the_scale(path: Path) -> None:
    by_name, _ = decode.decoders()
    assert list(by_name)[:2] == ["pillow", "opencv"]
    for scale, size in ((1, (203, 150)), (2, (102, 75)), (4, (51, 38)), (8, (26, 19))):
        for name in decode.SCALED:
            if name in by_name:
                assert by_name[name](path, scale).size == size, name


def test_differences_are_in_levels(path: Path) -> None:
    Image.new("RGB", (300, 200), (128, 128, 128)).save(path, quality=90)

    def brighter(_path: Path) -> Image.Image:
        return Image.new("RGB", (300, 200), (128, 128, 131))

    assert decode.view_difference(partial(decode.decode_pillow, scale=1), path) == {"mean": 0.0, "largest": 0}
    assert decode.view_difference(brighter, path) == {"mean": 1.0, "largest": 3}
    assert decode.difference(brighter, path) == 3
    assert decode.difference(partial(decode.decode_pillow, scale=2), path) == "size (150, 100)"


def test_pictures_of_photos_have_the_size_of_a_camera() -> None:
    photos = [Image.new("RGB", (300, 200), color) for color in ("red", "blue")]
    (picture,) = scaled_views.mosaics(photos, 1)
    assert picture.size == (2048, 1536)
    assert [picture.getpixel((x, 10)) for x in (10, 300)] == [(255, 0, 0), (0, 0, 255)]
    pictures = list(scaled_views.enlarged(photos, 2))
    assert [picture.resize((1, 1)).getpixel((0, 0)) for picture in pictures] == [(253, 2, 2), (2, 2, 253)]
