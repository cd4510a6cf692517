"""DICOM elements that are empty, odd or at the edge of their range: read as the standard means them."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cfcam_gpu.errors import ImageError
from cfcam_gpu.images.decode import load_image_bytes

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.uid import (  # noqa: E402
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    SecondaryCaptureImageStorage,
)

RAMP = np.array([[0, 1024, 2048, 4095]], np.uint16)
FULL = [0, 64, 128, 255]


def _dataset(pixels: np.ndarray, syntax: Any = ExplicitVRLittleEndian, **fields: Any) -> Dataset:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = SecondaryCaptureImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = UID("1.2.3")
    data.Rows, data.Columns = pixels.shape[:2]
    data.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    data.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    data.BitsAllocated = pixels.itemsize * 8
    data.BitsStored = 12 if pixels.itemsize == 2 else 8
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.PixelData = pixels.tobytes()
    data["PixelData"].VR = "OW" if pixels.itemsize == 2 else "OB"
    for name, value in fields.items():
        setattr(data, name, value)
    data.HighBit = data.BitsStored - 1
    return data


def _bytes(data: Dataset) -> bytes:
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _gray(data: Dataset, value_range: str | None = None) -> tuple[list[int], str]:
    image = load_image_bytes(_bytes(data), value_range=value_range)
    return np.asarray(image)[0, :, 0].tolist(), image.info["cfcam"]


@pytest.mark.parametrize(
    "names",
    [
        ("RescaleSlope",), ("RescaleIntercept",), ("RescaleSlope", "RescaleIntercept"), ("VOILUTFunction",),
        ("WindowCenter", "WindowWidth"), ("WindowCenter",), ("VOILUTSequence",), ("ModalityLUTSequence",),
        ("PixelPaddingValue",), ("NumberOfFrames",),
    ],
)  # fmt: skip
def test_empty_elements_are_absent(names: tuple[str, ...]) -> None:
    empty: dict[str, Any] = {name: [] if name.endswith("Sequence") else None for name in names}
    assert _gray(_dataset(RAMP, **empty)) == (FULL, "full range 0 to 4095")


def test_an_empty_function_leaves_the_window_linear() -> None:
    data = _dataset(RAMP, WindowCenter="1024", WindowWidth="2048", VOILUTFunction=None)
    assert _gray(data) == ([0, 128, 255, 255], "window 1024/2048")


def test_a_slope_alone_has_no_intercept() -> None:
    assert _gray(_dataset(RAMP, RescaleSlope="2", RescaleIntercept=None))[1] == "full range 0 to 8190"
    assert _gray(_dataset(RAMP, RescaleIntercept="-5"))[1] == "full range -5 to 4090"


@pytest.mark.parametrize("width", ["0", "-5"])
def test_a_window_of_width_0_is_left_out(width: str) -> None:
    data = _dataset(RAMP, WindowCenter="9", WindowWidth=width)
    assert _gray(data) == (FULL, "window of width 0 left out, full range 0 to 4095")
    data = _dataset(RAMP, WindowCenter=["9", "1024"], WindowWidth=[width, "2048"])
    assert _gray(data) == ([0, 128, 255, 255], "window of width 0 left out, window 1024/2048 (first of 2)")


@pytest.mark.parametrize(("center", "width"), [("nan", "50"), ("9", "inf"), ("1e400", "50")])
def test_a_window_that_is_no_number_is_left_out(center: str, width: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, of the values
        data = _dataset(RAMP, WindowCenter=center, WindowWidth=width)
        assert _gray(data) == (FULL, "window that is no number left out, full range 0 to 4095")


def test_a_window_below_1_is_meant_exactly() -> None:
    """Hounsfield-like values 0, 0.25, 0.5 and about 1 with the window 0.5/0.5: (x - 0.5) / 0.5 + 0.5."""
    data = _dataset(
        RAMP, RescaleSlope=str(1 / 4096), RescaleIntercept="0", WindowCenter="0.5", WindowWidth="0.5"
    )
    assert _gray(data) == ([0, 0, 128, 255], "window 0.5/0.5 LINEAR_EXACT")


def test_a_window_of_width_1_is_a_step() -> None:
    data = _dataset(RAMP, WindowCenter="1025", WindowWidth="1")
    assert _gray(data) == ([0, 0, 255, 255], "window 1025/1")


def _table(descriptor: list[int], values: list[int], vr: str) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if vr == "SS" else "US", descriptor)
    if vr == "OW":
        item.add_new("LUTData", "OW", np.array(values, "<u2").tobytes())
    else:
        signed = [value - 65536 if vr == "SS" and value > 32767 else value for value in values]
        item.add_new("LUTData", vr, signed)
    return item


@pytest.mark.parametrize("vr", ["OW", "US", "SS"])
@pytest.mark.parametrize("sequence", ["VOILUTSequence", "ModalityLUTSequence"])
def test_table_values_above_32767_are_not_negative(vr: str, sequence: str) -> None:
    data = _dataset(np.array([[0, 1, 2, 3]], np.uint16))
    setattr(data, sequence, [_table([4, 0, 16], [0, 30000, 40000, 65535], vr)])
    assert _gray(data)[0] == [0, 117, 156, 255]  # round(value / 257)


def test_a_table_for_signed_values() -> None:
    data = _dataset(np.array([[-2, -1, 0, 9]], np.int16))
    data.VOILUTSequence = [_table([3, -2, 16], [0, 32768, 65535], "SS")]
    assert _gray(data) == ([0, 128, 255, 255], "VOI LUT")


def test_a_table_of_65536_entries() -> None:
    data = _dataset(np.array([[0, 32768, 65535]], np.uint16), BitsStored=16)
    data.VOILUTSequence = [_table([0, 0, 16], list(range(65535, -1, -1)), "OW")]
    assert _gray(data) == ([255, 127, 0], "VOI LUT")


def test_padding_is_black_also_where_black_is_white() -> None:
    pixels = np.array([[0, 1024, 2048, 4095]], np.uint16)
    data = _dataset(pixels, PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=0)
    assert _gray(data) == ([0, 191, 127, 0], "full range 0 to 4095, MONOCHROME1 inverted, padding black")
    signed = _dataset(np.array([[-2000, -1000, 0, 2047]], np.int16), PixelPaddingValue=-2000)
    assert _gray(signed, "auto") == ([0, 0, 84, 255], "-1000 to 2047 (value range auto), padding black")
    limits = {
        "PixelPaddingValue": 0,
        "PixelPaddingRangeLimit": 1024,
        "PhotometricInterpretation": "MONOCHROME1",
    }
    assert _gray(_dataset(pixels, **limits))[0] == [0, 0, 127, 0]


def test_12_bits_called_16_are_warned_about() -> None:
    data = _dataset(RAMP, BitsStored=16)
    warning = "values 0 to 4095 fill 6.2% of 0 to 65535, so few gray levels are left; --value-range auto or LOW,HIGH"
    values, note = _gray(data)
    assert values == [0, 4, 8, 16]
    assert note.startswith(f"full range 0 to 65535, {warning}")
    assert load_image_bytes(_bytes(data)).info["cfcam_warning"].startswith(warning)
    assert _gray(data, "auto") == (FULL, "0 to 4095 (value range auto)")
    assert _gray(data, "percentile:0") == (FULL, "0 to 4095 (value range auto)")


def test_a_value_range_is_of_rescaled_values_and_takes_the_windows_place() -> None:
    data = _dataset(RAMP, RescaleSlope="1", RescaleIntercept="-1024", WindowCenter="40", WindowWidth="400")
    assert _gray(data, "-1024,1024") == ([0, 128, 255, 255], "-1024 to 1024 (value range -1024,1024)")
    data.PhotometricInterpretation = "MONOCHROME1"
    assert _gray(data, "-1024,1024")[0] == [255, 127, 0, 0]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_no_preamble_and_no_extension(syntax: str) -> None:
    data = _dataset(RAMP.byteswap() if syntax == ExplicitVRBigEndian else RAMP)
    del data.file_meta
    for first in ("", "ISO_IR 100"):
        if first:
            data.SpecificCharacterSet = first
        buffer = io.BytesIO()
        implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
        pydicom.dcmwrite(buffer, data, implicit_vr=implicit, little_endian=little)
        image = load_image_bytes(buffer.getvalue(), "IM0001")
        assert np.asarray(image)[0, :, 0].tolist() == FULL


def test_a_header_without_preamble() -> None:
    content = _bytes(_dataset(RAMP))[132:]
    assert np.asarray(load_image_bytes(content))[0, :, 0].tolist() == FULL


@pytest.mark.parametrize("kind", ["bmp", "gif", "ico", "jpeg", "png", "ppm", "tga", "tiff", "webp"])
def test_images_are_not_taken_for_dicom(kind: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, kind)
    assert load_image_bytes(buffer.getvalue()).info == {}


def _jpeg(**options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 30, 90)).save(buffer, "jpeg", quality=95, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("options", "photometric", "note"),
    [
        ({}, "RGB", "YCbCr called RGB, YBR_FULL"),
        ({"subsampling": 0}, "RGB", "YCbCr called RGB, YBR_FULL"),
        ({}, "YBR_FULL_422", "YBR_FULL_422"),
        ({"keep_rgb": True}, "RGB", "RGB"),
    ],
)
def test_jpeg_frames_have_the_colour_that_they_hold(
    options: dict[str, Any], photometric: str, note: str
) -> None:
    data = _dataset(np.zeros((16, 16, 3), np.uint8), JPEGBaseline8Bit, PhotometricInterpretation=photometric)
    data.PlanarConfiguration = 0
    data.PixelData = encapsulate([_jpeg(**options)])
    data["PixelData"].is_undefined_length = True
    image = load_image_bytes(_bytes(data))
    assert np.abs(np.asarray(image).astype(int) - (200, 30, 90)).max() <= 3
    assert image.info["cfcam"] == note


@pytest.mark.parametrize(
    ("syntax", "packages"),
    [
        (JPEGLSLossless, "pyjpegls"),
        (JPEGLSNearLossless, "pyjpegls"),
        (JPEGLosslessSV1, "pylibjpeg pylibjpeg-libjpeg"),
    ],
)
def test_a_compression_names_the_package_that_decodes_it(syntax: str, packages: str) -> None:
    data = _dataset(np.zeros((8, 8), np.uint8), syntax)
    data.PixelData = encapsulate([b"\xff\xd8nothing"])
    data["PixelData"].is_undefined_length = True
    with pytest.raises(ImageError) as caught:
        load_image_bytes(_bytes(data))
    assert str(caught.value).endswith(
        f": no package that decodes it is installed; run: pip install {packages}"
    )
