"""The decoders by name, and which files are left to the GPU."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cfcam_gpu.errors import ImageError
from cfcam_gpu.images.decode import load_image, load_image_bytes
from cfcam_gpu.images.decoders import DECODERS
from cfcam_gpu.images.preprocess import PUBLISHED_PREPROCESS
from cfcam_gpu.images.views import FileView, View
from tests.helpers.image_files import WIDE, png
from tests.helpers.large_photos import jpeg

GPU = DECODERS["gpu"]


def test_the_names_are_known_without_a_decoder() -> None:
    code = (
        "import sys; from cfcam_gpu.images.decoders import DECODERS; print(*DECODERS); "
        "assert not {'PIL', 'numpy', 'torch'} & set(sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.stdout.split(), run.stderr) == (["full", "scaled", "gpu"], "")
    assert [name for name, decoder in DECODERS.items() if decoder.needs_cuda] == ["gpu"]


@pytest.mark.parametrize("name", DECODERS)
def test_a_file_that_is_no_jpeg_has_the_view_of_the_full_decode(name: str) -> None:
    content = png(0, 16, (3, 2), b"".join(b"\0" + row.astype(">u2").tobytes() for row in WIDE), bits=b"\x0c")
    view = DECODERS[name].read(io.BytesIO(content), "x.png", PUBLISHED_PREPROCESS)
    assert isinstance(view, View)
    image = load_image_bytes(content)
    np.testing.assert_array_equal(view.pixels, PUBLISHED_PREPROCESS.view(image))
    assert (view.width, view.height, view.decoding) == (3, 2, "0 to 4095 (sBIT 12)")


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize(
    "settings", [{}, {"progressive": True}, {"subsampling": 0}, {"icc_profile": b"x" * 200}]
)
def test_a_jpeg_in_color_is_left_to_the_gpu(
    photos: list[Image.Image], orientation: int, settings: dict[str, Any]
) -> None:
    file = jpeg(photos[0], orientation, **settings)
    view = GPU.read(file, "", PUBLISHED_PREPROCESS)
    size = (451, 300) if orientation < 5 else (300, 451)
    assert view == FileView(file.getvalue(), orientation, *size)


@pytest.mark.parametrize("kind", ["gray", "cmyk", "rgb"])
def test_jpegs_that_nvjpeg_would_decode_to_other_colors_are_not(photos: list[Image.Image], kind: str) -> None:
    images = {"gray": photos[0].convert("L"), "cmyk": photos[0].convert("CMYK"), "rgb": photos[0]}
    file = jpeg(images[kind], keep_rgb=kind == "rgb")
    view = GPU.read(file, "", PUBLISHED_PREPROCESS)
    assert isinstance(view, View)
    expected = PUBLISHED_PREPROCESS.view(load_image_bytes(file.getvalue()))
    np.testing.assert_array_equal(view.pixels, expected)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("damage", ["cut", "cut in header", "empty jpeg"])
def test_damaged_jpegs_have_the_same_reason(
    tmp_path: Path, photos: list[Image.Image], name: str, damage: str
) -> None:
    content = jpeg(photos[0]).getvalue()
    path = tmp_path / "x.jpg"
    path.write_bytes(content[: {"cut": 9000, "cut in header": 90, "empty jpeg": 3}[damage]])
    with pytest.raises(ImageError) as expected:
        load_image(path)
    with pytest.raises(ImageError) as caught, path.open("rb") as stream:
        DECODERS[name].read(stream, "x.jpg", PUBLISHED_PREPROCESS)
    assert str(caught.value) == str(expected.value)


def test_a_jpeg_that_ends_with_zeros_is_whole(photos: list[Image.Image]) -> None:
    content = jpeg(photos[0]).getvalue() + b"\0" * 100
    assert isinstance(GPU.read(io.BytesIO(content), "", PUBLISHED_PREPROCESS), FileView)
