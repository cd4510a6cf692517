"""Grayscale of more than 8 bits is scaled by the range that its file declares, and never clipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cfcam_gpu.errors import ImageError
from cfcam_gpu.images.decode import load_image, load_image_bytes
from tests.helpers.image_files import WIDE, WIDE_8_BIT, decoded, gray_rgb, png, tiff

TWELVE = np.array([[0, 1024, 2048, 4095]], np.uint16)
TWELVE_8_BIT = np.array([[0, 64, 128, 255]], np.uint8)  # round(TWELVE * 255 / 4095), by hand


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("i16.png", png(0, 16, (3, 2), b"".join(b"\0" + row.astype(">u2").tobytes() for row in WIDE))),
        ("little.tif", tiff(WIDE.astype("<u2"), "<", 1)),
        ("big.tif", tiff(WIDE.astype(">u2"), ">", 1)),
        ("i32.tif", tiff(WIDE.astype("<i4"), "<", 2)),
        ("i16.pgm", b"P5 3 2 65535\n" + WIDE.astype(">u2").tobytes()),
        ("float.tif", tiff((WIDE / 65535).astype("<f4"), "<", 3)),
    ],
)
def test_more_than_8_bits_are_scaled_not_clipped(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert (decoded(tmp_path / name) == gray_rgb(WIDE_8_BIT)).all()


def _packed(values: np.ndarray) -> bytes:
    """A TIFF of 12 bits a pixel without gaps."""
    bits = "".join(f"{value:012b}" for value in values.ravel())
    data = int(bits, 2).to_bytes(len(bits) // 8, "big")
    whole = tiff(values.astype("<u2"), "<", 1, {258: 12, 279: len(data)})
    return whole[: -values.nbytes] + data


def _png_16(values: np.ndarray, bits: int) -> bytes:
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png(0, 16, values.shape[::-1], rows, bits=bytes([bits]))


@pytest.mark.parametrize(
    ("name", "content", "expected", "choice"),
    [
        ("packed.tif", _packed(TWELVE), TWELVE_8_BIT, "0 to 4095 (BitsPerSample 12)"),
        (
            "declared.tif",
            tiff(TWELVE.astype("<u2"), "<", 1, {340: 0, 341: 4095}),
            TWELVE_8_BIT,
            "0 to 4095 (SMinSampleValue, SMaxSampleValue)",
        ),
        (
            "above 16 bits.tif",
            tiff(TWELVE.astype("<i4") + 100_000, "<", 2, {340: 100_000, 341: 104_095}),
            TWELVE_8_BIT,
            "100000 to 104095 (SMinSampleValue, SMaxSampleValue)",
        ),
        (
            "float.tif",
            tiff(TWELVE.astype("<f4"), "<", 3, {341: 4095}),
            TWELVE_8_BIT,
            "0 to 4095 (SMinSampleValue, SMaxSampleValue)",
        ),
        (
            "white is zero.tif",
            tiff(WIDE.astype("<u2"), "<", 1, {262: 0}),
            255 - WIDE_8_BIT,
            "WhiteIsZero inverted",
        ),
        ("shifted.png", _png_16(TWELVE << 4, 12), TWELVE_8_BIT, "0 to 4095 (sBIT 12)"),
        ("repeated.png", _png_16(TWELVE << 4 | TWELVE >> 8, 12), TWELVE_8_BIT, "0 to 4095 (sBIT 12)"),
        ("all bits.png", _png_16(WIDE, 16), WIDE_8_BIT, None),
        ("no such bits.png", _png_16(WIDE, 17), WIDE_8_BIT, None),
        ("maxval.pgm", b"P5 4 1 4095\n" + TWELVE.astype(">u2").tobytes(), TWELVE_8_BIT, None),
    ],
)
def test_a_declared_range_is_the_scale(
    tmp_path: Path, name: str, content: bytes, expected: np.ndarray, choice: str | None
) -> None:
    (tmp_path / name).write_bytes(content)
    for image in (load_image(tmp_path / name), load_image_bytes(content)):
        assert (np.asarray(image) == gray_rgb(expected)).all()
        assert image.info == ({} if choice is None else {"cfcam": choice})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            tiff(TWELVE.astype("<u2"), "<", 1, {340: 1, 341: 4000}),
            "16-bit pixels must be from 1 to 4000 (SMinSampleValue, SMaxSampleValue), got 0 to 4095",
        ),
        (
            tiff(TWELVE.astype("<u2"), "<", 1, {340: 9, 341: 9}),
            "SMinSampleValue 9 must be below SMaxSampleValue 9",
        ),
    ],
)
def test_a_declared_range_that_does_not_hold_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(ImageError) as caught:
        load_image_bytes(content)
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    ("values", "kind", "reason"),
    [
        (
            np.array([[-5, 9]], "<i2"),
            2,
            "32-bit integer pixels must be from 0 to 65535 (16-bit range), got -5 to 9; "
            "give their range with --value-range",
        ),
        (
            np.array([[0, 65536]], "<i4"),
            2,
            "32-bit integer pixels must be from 0 to 65535 (16-bit range), got 0 to 65536; "
            "give their range with --value-range",
        ),
        (
            np.array([[0.5, 1.5]], "<f4"),
            3,
            "floating-point pixels must be from 0 to 1, got 0.5 to 1.5; give their range with --value-range",
        ),
        (
            np.array([[-1.0, 0.0]], "<f4"),
            3,
            "floating-point pixels must be from 0 to 1, got -1 to 0; give their range with --value-range",
        ),
        (np.array([[0.5, np.nan]], "<f4"), 3, "floating-point pixels must be from 0 to 1, got nan to nan"),
    ],
)
def test_values_without_a_known_scale_are_refused(
    tmp_path: Path, values: np.ndarray, kind: int, reason: str
) -> None:
    (tmp_path / "x.tif").write_bytes(tiff(values, "<", kind))
    with pytest.raises(ImageError) as caught:
        load_image(tmp_path / "x.tif")
    assert str(caught.value) == reason
