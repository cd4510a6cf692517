"""Encoded files hold the pixels that were given, in the order red, green, blue."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from cfcam_gpu.errors import ImageError
from cfcam_gpu.images.encode import IMAGE_FORMATS, encode_image

RED_AND_BLUE = np.repeat(np.array([[[200, 0, 0], [0, 0, 200]]], np.uint8), 8, axis=0).repeat(8, axis=1)


@pytest.mark.parametrize(("kind", "most"), [("png", 0), ("jpeg", 12), ("webp", 12)])
def test_the_colours_are_those_of_the_array(kind: str, most: int):
    """`most`: how far the compression may change a channel here."""
    image = Image.open(io.BytesIO(encode_image(RED_AND_BLUE, kind)))
    assert image.format == kind.upper()
    difference = np.abs(np.asarray(image.convert("RGB"), int)[:, [0, -1]] - RED_AND_BLUE[:, [0, -1]])
    assert difference.max() <= most


def test_gray_keeps_its_16_bits():
    gray = np.arange(6, dtype=np.uint16).reshape(2, 3) * 12_345
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(encode_image(gray, "png")))), gray)


def test_an_image_too_large_for_its_format_is_an_error_that_names_another():
    with pytest.raises(ImageError, match="webp cannot hold 20000 by 1 pixels; use png"):
        encode_image(np.zeros((1, 20_000, 3), np.uint8), "webp")


def test_every_format_has_the_extension_that_readers_expect():
    assert {kind: extension for kind, (extension, _) in IMAGE_FORMATS.items()} == {
        "png": ".png",
        "jpeg": ".jpg",
        "webp": ".webp",
    }
