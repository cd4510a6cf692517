"""Views for models of one and of four channels, from files of every kind."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from cfcam_gpu.errors import ImageError
from cfcam_gpu.images.bands import read_bands
from cfcam_gpu.images.decoders import DECODERS
from cfcam_gpu.images.preprocess import Preprocess
from cfcam_gpu.images.views import View

GRAY = Preprocess((8, 8), (0.5,), (0.25,))
FOUR = Preprocess((8, 8), (0.1, 0.2, 0.3, 0.4), (1.0,) * 4, interpolation="bicubic")


def _file(image: Image.Image, kind: str) -> io.BytesIO:
    stream = io.BytesIO()
    image.save(stream, kind)
    stream.seek(0)
    return stream


def _levels(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)


def _view(decoder: str, stream: io.BytesIO, preprocess: Preprocess) -> np.ndarray:
    view = DECODERS[decoder].read(stream, "", preprocess)
    assert isinstance(view, View)
    return np.asarray(view.pixels)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("kind", ["png", "tiff", "jpeg"])
def test_a_gray_file_keeps_its_levels(decoder: str, kind: str) -> None:
    image = Image.fromarray(_levels(20, 30))
    stream = _file(image, kind)
    wanted = np.asarray(Image.open(stream).resize((8, 8), Image.Resampling.BILINEAR))
    stream.seek(0)
    np.testing.assert_array_equal(_view(decoder, stream, GRAY)[..., 0], wanted)


def test_a_colour_file_becomes_its_luminance() -> None:
    image = Image.fromarray(_levels(8, 8, 3))
    r, g, b = np.asarray(image).astype(float).transpose(2, 0, 1)
    gray = _view("full", _file(image, "png"), GRAY)
    assert gray.shape == (8, 8, 1)
    assert np.abs(gray[..., 0] - (0.299 * r + 0.587 * g + 0.114 * b)).max() <= 0.51
    normalised = GRAY(image)
    np.testing.assert_allclose(normalised.numpy()[0], (gray[..., 0] / 255 - 0.5) / 0.25, atol=1e-6)


@pytest.mark.parametrize(("kind", "mode"), [("png", "RGBA"), ("tiff", "RGBA"), ("tiff", "CMYK")])
def test_four_bands_are_taken_as_they_are(kind: str, mode: str) -> None:
    """Also where the fourth is 0: as opacity it would hide the others."""
    levels = _levels(20, 30, 4)
    levels[:10, :, 3] = 0
    stream = _file(Image.fromarray(levels, mode), kind)
    pixels = _view("scaled", stream, FOUR)
    bands = [Image.fromarray(levels[..., i]).resize((8, 8), Image.Resampling.BICUBIC) for i in range(4)]
    np.testing.assert_array_equal(pixels, np.stack([np.asarray(band) for band in bands], axis=-1))


def test_a_file_with_other_bands_is_named() -> None:
    with pytest.raises(
        ImageError, match=r"^the image has 3 channels \(RGB\), the model takes 4; give files of 4 bands"
    ):
        read_bands(_file(Image.new("RGB", (4, 4)), "png"), 4)
    with pytest.raises(ImageError, match=r"^the image has 2 channels, the model takes 4$"):
        FOUR.view(Image.new("LA", (4, 4)))
