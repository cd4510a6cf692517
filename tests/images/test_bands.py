"""Views for models of one and of four channels, from files of every kind."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from cfcam_gpu.dataset.execution.transfers import stacked_pixels
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


@pytest.mark.parametrize("kind", ["png", "tiff", "dicom"])
@pytest.mark.parametrize("decoder", ["full", "scaled"])
def test_gray_of_more_than_8_bits_keeps_its_levels(kind: str, decoder: str) -> None:
    """The 64 levels lie within one level of 8 bits."""
    levels = (20_000 + 4 * np.arange(64)).astype(np.uint16).reshape(8, 8)
    stream = dicom(levels) if kind == "dicom" else _file(Image.fromarray(levels), kind)
    pixels = _view(decoder, stream, GRAY)
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels[..., 0], levels / 65535 * 255, rtol=1e-6)
    stream.seek(0)
    colour = Preprocess((8, 8), (0.5,) * 3, (0.25,) * 3)
    assert len(np.unique(_view(decoder, stream, colour))) <= 2


def test_fine_gray_is_resized_turned_and_stacked_with_other_views() -> None:
    levels = np.random.default_rng(5).integers(0, 65536, (12, 20), dtype=np.uint16)
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(levels).save(stream, "tiff", exif=exif)
    stream.seek(0)
    pixels = _view("full", stream, GRAY)
    upright = Image.fromarray((np.rot90(levels, -1) / 65535 * 255).astype(np.float32))
    wanted = np.asarray(upright.resize((8, 8), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(pixels[..., 0], wanted, rtol=0, atol=1e-3)
    plain = View(np.full((8, 8, 1), 7, np.uint8), 8, 8)
    stacked = stacked_pixels([View(pixels, 12, 20), plain], torch.device("cpu"))
    assert stacked.dtype == torch.float32
    assert bool((stacked[1] == 7).all())
    normalised = GRAY.normalise(stacked)
    np.testing.assert_allclose(normalised[0, 0], (wanted / 255 - 0.5) / 0.25, rtol=0, atol=1e-4)


def dicom(levels: np.ndarray) -> io.BytesIO:
    """A DICOM file of 16 stored bits without a window."""
    pydicom = pytest.importorskip("pydicom")
    data = pydicom.dataset.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    data.Rows, data.Columns = levels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.PixelData = levels.tobytes()
    stream = io.BytesIO()
    data.save_as(stream, enforce_file_format=True)
    stream.seek(0)
    return stream
