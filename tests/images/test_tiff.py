"""TIFF files that Pillow reads wrong or not at all, and files of several pages: the right pixels, and a note."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from cfcam_gpu.errors import ImageError
from cfcam_gpu.images.decode import load_image_bytes
from tests.helpers.image_files import tiff

WIDE = np.random.default_rng(0).integers(0, 65536, (20, 30, 3), dtype=np.uint16)
EIGHT = np.rint(WIDE / 257)


def _tiff(values: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **options)
    return buffer.getvalue()


def _planes(values: np.ndarray, **options: Any) -> bytes:
    return _tiff(np.moveaxis(values, -1, 0), planarconfig="separate", photometric="rgb", **options)


@pytest.mark.parametrize("options", [{}, {"tile": (16, 16)}, {"byteorder": ">"}, {"bigtiff": True}], ids=str)
def test_planes_of_16_bits(options: dict[str, Any]) -> None:
    pixels = np.asarray(load_image_bytes(_planes(WIDE, **options)))
    assert (pixels == EIGHT).all()


@pytest.mark.parametrize(
    "options", [{"compression": "zlib"}, {"compression": "zlib", "predictor": True}], ids=str
)
def test_compressed_planes_of_16_bits(options: dict[str, Any]) -> None:
    pixels = np.asarray(load_image_bytes(_planes(WIDE, **options)))
    assert np.abs(pixels.astype(int) - EIGHT).max() <= 1  # Pillow keeps the upper byte


def test_planes_with_opacity() -> None:
    opacity = np.full((20, 30, 1), 65535, np.uint16)
    opacity[:5] = 0
    pixels = np.asarray(load_image_bytes(_planes(np.dstack([WIDE, opacity]), extrasamples=["unassalpha"])))
    assert (pixels[:5] == 255).all()
    assert (pixels[5:] == EIGHT[5:]).all()


@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
@pytest.mark.parametrize("channels", [1, 3])
def test_floats_from_0_to_1(kind: str, channels: int) -> None:
    values = np.linspace(0, 1, 8 * 9 * channels).reshape(8, 9, channels)
    content = _tiff(values.astype(kind).squeeze(), photometric="rgb" if channels == 3 else "minisblack")
    pixels = np.asarray(load_image_bytes(content))
    assert np.abs(pixels - values * 255).max() <= 0.6  # half a level, and the halves' own rounding


def test_floats_beyond_1_say_so_and_take_a_value_range() -> None:
    content = _tiff(np.linspace(-1000, 400, 72).reshape(8, 9).astype("f8"), photometric="minisblack")
    with pytest.raises(
        ImageError, match=r"^floating-point pixels must be from 0 to 1, got -1000 to 400; give their range"
    ):
        load_image_bytes(content)
    pixels = np.asarray(load_image_bytes(content, value_range="-1000,400"))
    assert pixels[0, 0, 0] == 0
    assert pixels[-1, -1, 0] == 255


def test_signed_bytes() -> None:
    values = np.arange(-64, 64, dtype=np.int8).reshape(8, 16)
    with pytest.raises(
        ImageError, match=r"^signed 8-bit pixels must be from 0 to 127, got -64 to 63; give their range"
    ):
        load_image_bytes(_tiff(values, photometric="minisblack"))
    pixels = np.asarray(load_image_bytes(_tiff(values, photometric="minisblack"), value_range="auto"))
    assert (pixels[..., 0] == np.rint((values.astype(int) + 64) * (255 / 127))).all()


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"byteorder": ">"}], ids=str)
def test_unsigned_values_of_32_bits(options: dict[str, Any]) -> None:
    values = np.array([[0, 2**31, 2**32 - 1]], np.uint32)
    content = _tiff(values, photometric="minisblack", **options)
    with pytest.raises(ImageError, match=r"got 0 to 4\.29497e\+09; give their range with --value-range"):
        load_image_bytes(content)
    for value_range in ("auto", "0,4294967295"):
        pixels = np.asarray(load_image_bytes(content, value_range=value_range))
        assert pixels[0, :, 0].tolist() == [0, 128, 255]


def test_complex_numbers_are_refused() -> None:
    with pytest.raises(ImageError, match=r"^a TIFF of complex numbers; save their magnitude or their phase$"):
        load_image_bytes(_tiff(np.full((2, 3), 1 + 2j, np.complex64), photometric="minisblack"))


@pytest.mark.parametrize("bands", [5, 7])
def test_many_bands_are_named(bands: int) -> None:
    content = _tiff(np.zeros((4, 6, bands), np.uint8), photometric="minisblack", planarconfig="contig")
    with pytest.raises(ImageError, match=rf"^a TIFF of {bands} bands, expected 1 \(gray\), 3 \(RGB\) or"):
        load_image_bytes(content)


def test_too_many_pixels_are_refused_before_they_are_read() -> None:
    with pytest.raises(ImageError, match=r"= 600 pixels is over the limit of 599; --max-pixels allows more$"):
        load_image_bytes(_planes(WIDE), max_pixels=599)


def test_orientation_of_planes_of_16_bits() -> None:
    content = _planes(WIDE, extratags=[(274, 3, 1, 6, True)])
    assert (np.asarray(load_image_bytes(content)) == np.rot90(EIGHT, -1)).all()
    half = _tiff(
        (WIDE[..., 0] / 65535).astype("f2"), photometric="minisblack", extratags=[(274, 3, 1, 6, True)]
    )
    assert load_image_bytes(half).size == (20, 30)


def _pages(*pages: tuple[np.ndarray, dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for values, options in pages:
            writer.write(values, photometric="rgb", metadata=None, **options)
    return buffer.getvalue()


def _flat(side: int, value: int, width: int | None = None) -> np.ndarray:
    return np.full((side, width or side, 3), value, np.uint8)


@pytest.mark.parametrize(
    ("pages", "value", "note"),
    [
        pytest.param([(_flat(8, 1), {}), (_flat(8, 2), {})], 1, "first of 2 pages", id="pages"),
        pytest.param([(_flat(8, 1), {}), (_flat(12, 2), {})], 1, "first of 2 pages", id="a larger sheet"),
        pytest.param([(_flat(8, 1), {}), (_flat(64, 2, 30), {})], 1, "first of 2 pages", id="another shape"),
        pytest.param(
            [(_flat(8, 1), {}), (_flat(64, 2), {}), (_flat(32, 3), {})],
            2,
            "page 2 of 3, the full size",
            id="pyramid",
        ),
        pytest.param(
            [(_flat(64, 1), {}), (_flat(8, 2), {}), (_flat(32, 3), {})],
            1,
            "first of 3 pages",
            id="full size first",
        ),
        pytest.param(
            [(_flat(8, 1), {"subfiletype": 1}), (_flat(12, 2), {})],
            2,
            "page 2 of 2, the full size",
            id="flagged",
        ),
    ],
)
def test_which_page_is_read(pages: list[tuple[np.ndarray, dict[str, Any]]], value: int, note: str) -> None:
    image = load_image_bytes(_pages(*pages))
    assert (np.asarray(image) == value).all()
    assert image.info == {"cfcam": note}


def test_a_small_copy_without_its_image_is_refused() -> None:
    with pytest.raises(ImageError, match=r"^the TIFF holds only a small copy of its image"):
        load_image_bytes(_pages((_flat(8, 1), {"subfiletype": 1})))


def test_one_page_has_no_note() -> None:
    assert load_image_bytes(tiff(WIDE[..., 0], "<", 1)).info == {}


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_frames_of_an_animation_are_counted(kind: str) -> None:
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "green", "blue")]
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    assert load_image_bytes(buffer.getvalue()).info == {"cfcam": "first of 3 frames"}


def test_damage_behind_the_first_page_leaves_it() -> None:
    whole = _pages((_flat(8, 1), {}), (_flat(8, 2), {}))
    cut = whole[: whole.rindex(bytes([2] * 64))]
    generator = np.random.default_rng(0)
    for _ in range(40):
        damaged = bytearray(cut)
        for position in generator.integers(8, len(cut), 3):
            damaged[position] = generator.integers(256)
        try:
            assert load_image_bytes(bytes(damaged), max_pixels=10**6).mode == "RGB"
        except ImageError as error:
            assert str(error).strip()  # noqa: PT017


@pytest.mark.parametrize("to", [0, 1])
def test_pages_that_come_again_are_read_once(to: int) -> None:
    """The last page of a damaged file names itself, or the first, as the next: reading such a file never ended."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for size in (5, 9):
            writer.write(np.full((size, size), 70, np.uint16), photometric="minisblack")
    with tifffile.TiffFile(io.BytesIO(buffer.getvalue())) as file:
        offsets = [page.offset for page in file.pages]
    content = bytearray(buffer.getvalue())
    (entries,) = struct.unpack_from("<H", content, offsets[1])
    struct.pack_into("<I", content, offsets[1] + 2 + 12 * entries, offsets[to])
    code = (
        "import sys, io; from cfcam_gpu.images.tiff import read_tiff\n"
        "read = read_tiff(io.BytesIO(bytes.fromhex(sys.stdin.read())), 1000)\n"
        "print(read.values.shape, read.steps)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        input=content.hex(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.stdout == "(5, 5) ['first of 2 pages']\n", run.stderr
