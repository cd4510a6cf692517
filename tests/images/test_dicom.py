"""DICOM pixels come out as their standard asks, the choice is recorded, and nothing is clipped unasked."""

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

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.uid import (  # noqa: E402
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)


def _dataset(pixels: np.ndarray, **fields: Any) -> Dataset:
    """Grayscale (H, W) or (frames, H, W) of 12 bits in 16, or what the fields say."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = fields.pop("syntax", ExplicitVRLittleEndian)
    data.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    data.SOPClassUID = SecondaryCaptureImageStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.Rows, data.Columns = fields.pop("shape", pixels.shape[-2:])
    signed = np.issubdtype(pixels.dtype, np.signedinteger)
    defaults = {
        "PhotometricInterpretation": "MONOCHROME2",
        "SamplesPerPixel": 1,
        "BitsAllocated": pixels.itemsize * 8,
        "BitsStored": 12,
        "PixelRepresentation": int(signed),
        "PixelData": pixels.tobytes(),
    }
    for name, value in {**defaults, **fields}.items():
        setattr(data, name, value)
    data.HighBit = data.BitsStored - 1
    data["PixelData"].VR = "OW" if pixels.itemsize == 2 else "OB"
    return data


def _bytes(data: Dataset, *, whole: bool = True) -> bytes:
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=whole)
    return buffer.getvalue()


def _gray(data: Dataset) -> tuple[list[list[int]], str]:
    image = load_image_bytes(_bytes(data))
    assert image.mode == "RGB"
    values = np.asarray(image)
    assert (values == values[..., :1]).all()
    assert list(image.info) == ["cfcam"]
    return values[..., 0].tolist(), image.info["cfcam"]


RAMP = np.array([[0, 1024, 2048, 4095]], np.uint16)
SIGNED = np.array([[-2048, -1, 0, 2047]], np.int16)


@pytest.mark.parametrize(
    ("pixels", "fields", "expected", "choice"),
    [
        pytest.param(RAMP, {}, [0, 64, 128, 255], "full range 0 to 4095", id="bits stored"),
        pytest.param(
            RAMP, {"PhotometricInterpretation": "MONOCHROME1"}, [255, 191, 127, 0],
            "full range 0 to 4095, MONOCHROME1 inverted", id="MONOCHROME1",
        ),
        pytest.param(SIGNED, {}, [0, 127, 128, 255], "full range -2048 to 2047", id="signed"),
        pytest.param(
            RAMP, {"RescaleSlope": "2", "RescaleIntercept": "-1000"}, [0, 64, 128, 255],
            "full range -1000 to 7190", id="rescale alone changes no gray",
        ),
        pytest.param(
            RAMP, {"RescaleSlope": "-1", "RescaleIntercept": "4095"}, [255, 191, 127, 0],
            "full range 0 to 4095", id="a falling rescale turns it over",
        ),
        pytest.param(  # LINEAR: y = ((x - 1023.5) / 2047 + 0.5) * 4095, cut at 0 and 2047
            RAMP, {"WindowCenter": "1024", "WindowWidth": "2048"}, [0, 128, 255, 255], "window 1024/2048", id="window",
        ),
        pytest.param(
            RAMP, {"WindowCenter": ["1024", "9"], "WindowWidth": ["2048", "9"]}, [0, 128, 255, 255],
            "window 1024/2048 (first of 2)", id="first of two windows",
        ),
        pytest.param(  # of the rescaled values -1024, 0, 1024, 3071
            RAMP, {"RescaleSlope": "1", "RescaleIntercept": "-1024", "WindowCenter": "40", "WindowWidth": "400"},
            [0, 102, 255, 255], "window 40/400", id="window of Hounsfield units",
        ),
        pytest.param(
            RAMP, {"RescaleSlope": "-1", "RescaleIntercept": "4095", "WindowCenter": "1024", "WindowWidth": "2048"},
            [255, 255, 255, 0], "window 1024/2048", id="window after a falling rescale",
        ),
        pytest.param(
            RAMP, {"WindowCenter": "2048", "WindowWidth": "4096", "VOILUTFunction": "SIGMOID"}, [30, 69, 128, 225],
            "window 2048/4096 SIGMOID", id="sigmoid",
        ),
        pytest.param(
            RAMP, {"WindowCenter": "1024", "WindowWidth": "2048", "VOILUTFunction": "LINEAR_EXACT",
                   "PhotometricInterpretation": "MONOCHROME1"},
            [255, 127, 0, 0], "window 1024/2048 LINEAR_EXACT, MONOCHROME1 inverted", id="exact, MONOCHROME1",
        ),
        pytest.param(
            np.array([[0, 100, 255]], np.uint8), {"BitsStored": 8}, [0, 100, 255], "full range 0 to 255", id="8 bits",
        ),
    ],
)  # fmt: skip
def test_grayscale(pixels: np.ndarray, fields: dict[str, Any], expected: list[int], choice: str) -> None:
    assert _gray(_dataset(pixels, **fields)) == ([expected], choice)


def _lut(descriptor: list[int], values: list[int], bits: int) -> Dataset:
    item = Dataset()
    item.LUTDescriptor = descriptor
    item.LUTData = np.array(values, np.uint16).tobytes() if bits > 8 else bytes(values)
    item["LUTData"].VR = "OW"
    if bits == 8:
        item.LUTData = np.array(values, np.uint16).tobytes()
    return item


def test_modality_lut_then_voi_lut() -> None:
    """0..3 -> 10, 20, 30, 40 -> entries of a table that begins at 20: below it the first, above the last."""
    data = _dataset(np.array([[0, 1, 2, 3]], np.uint16))
    data.ModalityLUTSequence = [_lut([4, 0, 16], [10, 20, 30, 40], 16)]
    data.ModalityLUTSequence[0].ModalityLUTType = "US"
    data.VOILUTSequence = [_lut([11, 20, 10], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1023], 10)]
    assert _gray(data) == ([[0, 0, 255, 255]], "VOI LUT")


def test_values_beyond_an_8_bit_voi_lut_take_its_last_entry() -> None:
    data = _dataset(np.array([[0, 3, 4, 300, 4095]], np.uint16))
    data.VOILUTSequence = [_lut([4, 0, 8], [0, 50, 100, 200], 8)]
    data.WindowCenter, data.WindowWidth = "1", "2"  # the table comes first
    assert _gray(data) == ([[0, 200, 200, 200, 200]], "VOI LUT")


def test_first_of_several_frames() -> None:
    data = _dataset(np.stack([RAMP, RAMP[:, ::-1]]), NumberOfFrames=2)
    assert _gray(data) == ([[0, 64, 128, 255]], "first of 2 frames, full range 0 to 4095")


@pytest.mark.parametrize("groups", ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"])
def test_window_and_rescale_of_a_frame(groups: str) -> None:
    rescale, window, frame = Dataset(), Dataset(), Dataset()
    rescale.RescaleSlope, rescale.RescaleIntercept = "1", "-1024"
    window.WindowCenter, window.WindowWidth = "40", "400"
    frame.PixelValueTransformationSequence, frame.FrameVOILUTSequence = [rescale], [window]
    data = _dataset(np.stack([RAMP, RAMP]), NumberOfFrames=2, **{groups: [frame, Dataset()]})
    assert _gray(data) == ([[0, 102, 255, 255]], "first of 2 frames, window 40/400")


COLOUR = np.array([[[255, 0, 0], [0, 255, 0], [10, 20, 30]]], np.uint8)


def _rgb(data: Dataset) -> tuple[list[list[int]], str]:
    image = load_image_bytes(_bytes(data))
    return np.asarray(image)[0].tolist(), image.info["cfcam"]


def test_rgb_interleaved_by_plane_and_of_16_bits() -> None:
    fields: dict[str, Any] = {
        "PhotometricInterpretation": "RGB",
        "SamplesPerPixel": 3,
        "shape": (1, 3),
        "BitsStored": 8,
    }
    expected = (COLOUR[0].tolist(), "RGB")
    assert _rgb(_dataset(COLOUR, **fields, PlanarConfiguration=0)) == expected
    planes = np.ascontiguousarray(COLOUR.transpose(2, 0, 1))
    assert _rgb(_dataset(planes, **fields, PlanarConfiguration=1)) == expected
    wide = (COLOUR.astype(np.uint16) * 257).astype("<u2")
    assert _rgb(_dataset(wide, **{**fields, "BitsStored": 16}, PlanarConfiguration=0)) == expected


def test_ybr_becomes_rgb() -> None:
    ybr = np.array([[[76, 85, 255], [128, 128, 128]]], np.uint8)  # pure red, mid gray
    data = _dataset(
        ybr,
        PhotometricInterpretation="YBR_FULL",
        SamplesPerPixel=3,
        shape=(1, 2),
        BitsStored=8,
        PlanarConfiguration=0,
    )
    values, choice = _rgb(data)
    assert np.abs(np.array(values) - [[255, 0, 0], [128, 128, 128]]).max() <= 1
    assert choice == "YBR_FULL"


def test_palette_of_16_bits() -> None:
    data = _dataset(
        np.array([[0, 1, 2, 1]], np.uint8), PhotometricInterpretation="PALETTE COLOR", BitsStored=8
    )
    for name, values in (("Red", [65535, 0, 257]), ("Green", [0, 65535, 514]), ("Blue", [0, 0, 771])):
        setattr(data, f"{name}PaletteColorLookupTableDescriptor", [3, 0, 16])
        setattr(data, f"{name}PaletteColorLookupTableData", np.array(values, "<u2").tobytes())
    assert _rgb(data) == ([[255, 0, 0], [0, 255, 0], [1, 2, 3], [0, 255, 0]], "palette")


def test_run_length_and_jpeg_compression() -> None:
    lossless = _dataset(np.repeat(RAMP, 4, 0))
    lossless.compress(RLELossless)
    assert _gray(lossless)[0] == [[0, 64, 128, 255]] * 4
    buffer = io.BytesIO()
    Image.new("L", (8, 8), 77).save(buffer, "jpeg", quality=100)
    jpeg = _dataset(np.zeros((8, 8), np.uint8), BitsStored=8, syntax=JPEGBaseline8Bit)
    jpeg.PixelData = encapsulate([buffer.getvalue()])
    jpeg["PixelData"].is_undefined_length = True
    assert _gray(jpeg)[0] == [[77] * 8] * 8


def _reason(content: bytes, name: str = "", max_pixels: int = 10**6) -> str:
    with pytest.raises(ImageError) as caught:
        load_image_bytes(content, name, max_pixels)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_compression_that_cannot_be_undone_names_it() -> None:
    data = _dataset(np.zeros((8, 8), np.uint8), BitsStored=8, syntax=JPEGLSLossless)
    data.PixelData = encapsulate([b"\xff\xd8nothing"])
    data["PixelData"].is_undefined_length = True
    assert _reason(_bytes(data)) == (
        "cannot be decompressed (JPEG-LS Lossless Image Compression): no package that decodes it is installed; "
        "run: pip install pyjpegls"
    )


def test_files_without_the_mark_are_known_by_their_extension(tmp_path: Path) -> None:
    data = _dataset(RAMP)
    del data.file_meta
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, data, implicit_vr=True, little_endian=True)
    (tmp_path / "x.dcm").write_bytes(buffer.getvalue())
    assert np.asarray(load_image_bytes(buffer.getvalue()))[0, :, 0].tolist() == [0, 64, 128, 255]
    assert np.asarray(load_image(tmp_path / "x.dcm"))[0, :, 0].tolist() == [0, 64, 128, 255]


def test_files_with_the_mark_need_no_extension(tmp_path: Path) -> None:
    (tmp_path / "IM.0001").write_bytes(_bytes(_dataset(RAMP)))
    assert np.asarray(load_image(tmp_path / "IM.0001"))[0, :, 0].tolist() == [0, 64, 128, 255]


def test_files_that_are_no_dicom_image() -> None:
    assert _reason(b"these are notes, no picture", "x.dcm") == "not a DICOM file with an image"
    assert _reason(b"", "x.dcm") == "empty file"
    no_pixels = _dataset(RAMP)
    del no_pixels.PixelData
    assert _reason(_bytes(no_pixels)) == "a DICOM file without an image (Secondary Capture Image Storage)"
    assert _reason(_bytes(_dataset(RAMP, shape=(0, 4)))) == "truncated or corrupt: 4 columns and 0 rows"
    assert _reason(_bytes(_dataset(RAMP)), max_pixels=3) == (
        "4×1 = 4 pixels is over the limit of 3; --max-pixels allows more"  # noqa: RUF001
    )
    assert _reason(_bytes(_dataset(RAMP, RescaleSlope="0", RescaleIntercept="5"))) == (
        "truncated or corrupt: it declares values from 5 to 5"
    )


def test_damaged_files_give_an_image_or_an_image_error() -> None:
    content = _bytes(
        _dataset(np.arange(64, dtype=np.uint16).reshape(8, 8), WindowCenter="30", WindowWidth="60")
    )
    generator = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(content[: generator.integers(140, len(content) + 1)])
        for position in generator.integers(132, len(damaged), 4):
            damaged[position] = generator.integers(256)
        outcome = _mode_or_reason(bytes(damaged))
        assert outcome == "RGB" or outcome.strip()
        assert "\n" not in outcome


def _mode_or_reason(content: bytes) -> str:
    try:
        return load_image_bytes(content, max_pixels=1_000_000).mode
    except ImageError as error:
        return str(error)


def test_without_the_extra_the_reason_names_it(tmp_path: Path) -> None:
    (tmp_path / "x.dcm").write_bytes(_bytes(_dataset(RAMP)))
    code = f"""
import sys
sys.modules["pydicom"] = None
from pathlib import Path
from cfcam_gpu.images.decode import load_image
try:
    load_image(Path({str(tmp_path / "x.dcm")!r}))
except ValueError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (
        run.stdout == "a DICOM file, but pydicom is not installed; run: pip install 'cfcam-gpu[dicom]'\n"
    ), run.stderr
