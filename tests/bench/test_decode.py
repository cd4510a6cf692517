"""The decoders that are compared give images of the size that was asked for, and the measure of their views is right."""

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


def test_the_difference_of_views_is_in_levels(path: Path) -> None:
    def one_red_pixel_brighter(path: Path) -> Image.Image:
        image = decode.decode_pillow(path, 1).resize((224, 224))
        red, *_ = image.getpixel((0, 0))  # type: ignore[misc]
        image.putpixel((0, 0), (red + 10, *image.getpixel((0, 0))[1:]))  # type: ignore[index]
        return image

    same = partial(decode.decode_pillow, scale=1)
    assert decode.view_difference(same, path) == {"mean": 0.0, "largest": 0}
    changed = decode.view_difference(one_red_pixel_brighter, path)
    plain = decode.view_difference(lambda file: decode.decode_pillow(file, 1).resize((224, 224)), path)
    assert changed["largest"] >= 10 - plain["largest"]
    assert decode.difference(partial(decode.decode_pillow, scale=2), path) == "size (102, 75)"


def test_pictures_of_photos_have_the_size_of_a_camera() -> None:
    photos = [Image.new("RGB", (300, 200), color) for color in ("red", "blue")]
    (picture,) = scaled_views.mosaics(photos, 1)
    assert picture.size == (2048, 1536)
    assert [picture.getpixel((x, 10)) for x in (10, 300)] == [(255, 0, 0), (0, 0, 255)]
    pictures = list(scaled_views.enlarged(photos, 2))
    assert [max(picture.getextrema(), key=lambda low_high: low_high[1])[1] for picture in pictures] == [
        255,
        255,
    ]
    assert {picture.size for picture in pictures} == {(2048, 1536)}
