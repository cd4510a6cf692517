"""The pictures of the report are the upright originals made smaller."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from cfcam_gpu.report import write_report
from tests.helpers.stored_run import (
    embedded,
    made_row,
    write_store,
)


def test_the_picture_is_the_upright_original_made_smaller(tmp_path: Path):
    photo = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.new("RGB", (1000, 500), "red").save(photo, exif=exif)
    store = write_store(tmp_path / "out", [made_row(0, uri=str(photo), width=500, height=1000)])
    url = embedded(write_report(store), "block-0")["pictures"][0]
    data = base64.b64decode(url.removeprefix("data:image/jpeg;base64,"))
    with Image.open(io.BytesIO(data)) as picture:
        assert (picture.format, picture.size) == ("JPEG", (320, 640))


def test_an_original_of_another_size_is_not_shown_under_a_map_that_is_not_its_own(tmp_path: Path):
    photo = tmp_path / "photo.png"
    Image.new("RGB", (60, 40)).save(photo)
    store = write_store(tmp_path / "out", [made_row(0, uri=str(photo))])
    block = embedded(write_report(store), "block-0")
    assert block["pictures"] == [None]
    assert block["notes"] == ["it has changed since: it was 400 × 300 pixels and is 60 × 40"]  # noqa: RUF001
