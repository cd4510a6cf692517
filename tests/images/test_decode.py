"""Every kind of image comes out as the right RGB pixels."""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from cfcam_gpu.errors import ImageError
from cfcam_gpu.images.decode import load_image, load_image_bytes
from tests.helpers.image_files import GRAY, WIDE, WIDE_8_BIT, decoded, gray_rgb, png

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp", "gif", "jpg"])
def test_rgb_of_common_formats(tmp_path: Path, suffix: str) -> None:
    flat = np.full((16, 24, 3), (200, 30, 90), np.uint8)
    options: dict[str, Any] = (
        {"lossless": True} if suffix == "webp" else {"quality": 100} if suffix == "jpg" else {}
    )
    Image.fromarray(flat).save(tmp_path / f"x.{suffix}", **options)
    assert np.abs(decoded(tmp_path / f"x.{suffix}").astype(int) - flat).max() <= (2 if suffix == "jpg" else 0)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp", "gif", "jpg", "mpo"])
def test_image_needs_its_file_no_longer(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    second: dict[str, Any] = {"save_all": True, "append_images": [Image.new("RGB", (16, 24), BLUE)]}
    Image.new("RGB", (16, 24), RED).save(path, **(second if suffix in ("tif", "webp", "gif", "mpo") else {}))
    image = load_image(path)
    path.unlink()
    assert np.abs(np.asarray(image.resize((3, 5), box=(1, 1, 9, 9))).astype(int) - RED).max() <= 3
    assert np.abs(np.asarray(image.copy()).astype(int) - RED).max() <= 3
    assert pickle.loads(pickle.dumps(image)).size == (16, 24)


def test_grayscale_and_black_and_white(tmp_path: Path) -> None:
    Image.fromarray(GRAY).save(tmp_path / "l.png")
    Image.fromarray(GRAY > 50).save(tmp_path / "1.png")
    assert (decoded(tmp_path / "l.png") == gray_rgb(GRAY)).all()
    assert (decoded(tmp_path / "1.png") == gray_rgb(np.where(GRAY > 50, 255, 0))).all()


def test_bytes_are_read_like_files(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(gray_rgb(GRAY)).save(buffer, "png", exif=exif)
    (tmp_path / "x.png").write_bytes(buffer.getvalue())
    image = load_image_bytes(buffer.getvalue())
    assert image.size == (2, 3)
    assert (np.asarray(image) == decoded(tmp_path / "x.png")).all()
    with pytest.raises(ImageError, match=r"^empty file$"):
        load_image_bytes(b"")


def test_what_a_file_says_of_itself_does_not_pass_for_what_was_done(tmp_path: Path) -> None:
    told = PngImagePlugin.PngInfo()
    told.add_text("cfcam", "window 1/2")
    for mode in ("RGB", "RGBA", "L"):
        Image.new(mode, (2, 2)).save(tmp_path / "x.png", pnginfo=told)
        with Image.open(tmp_path / "x.png") as stored:
            assert stored.info["cfcam"] == "window 1/2"
        assert load_image(tmp_path / "x.png").info == {}


def _palette(alpha: Any) -> Callable[[Path], None]:
    def save(path: Path) -> None:
        image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), mode=None).convert("P")
        image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
        image.putdata([0, 1, 2])
        options: dict[str, Any] = {} if alpha is None else {"transparency": alpha}
        image.save(path, **options)

    return save


def _array(mode: str, values: list[Any]) -> Callable[[Path], None]:
    def save(path: Path) -> None:
        image = Image.new(mode, (len(values), 1))
        image.putdata(values)
        image.save(path)

    return save


def _raw(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


@pytest.mark.parametrize(
    ("save", "expected"),
    [
        pytest.param(
            _array("RGBA", [(*RED, 255), (*RED, 0), (*RED, 51)]), [RED, WHITE, (255, 204, 204)], id="RGBA"
        ),
        pytest.param(_array("LA", [(100, 255), (0, 0), (0, 51)]), [(100,) * 3, WHITE, (204,) * 3], id="LA"),
        pytest.param(_palette(None), [RED, GREEN, BLUE], id="P"),
        pytest.param(_palette(1), [RED, WHITE, BLUE], id="P with one transparent entry"),
        pytest.param(_palette(b"\xff\x00\x33"), [RED, WHITE, (204, 204, 255)], id="P with alpha"),
        pytest.param(
            _raw(png(2, 8, (3, 1), b"\0" + bytes((*RED, *GREEN, *BLUE)), struct.pack(">3H", *GREEN))),
            [RED, WHITE, BLUE],
            id="RGB with a transparent colour",
        ),
        pytest.param(
            _raw(png(0, 8, (3, 1), b"\0\x05\x06\x07", struct.pack(">H", 6))),
            [(5,) * 3, WHITE, (7,) * 3],
            id="L with a transparent value",
        ),
        pytest.param(
            _raw(png(0, 16, (3, 1), b"\0" + struct.pack(">3H", 0, 257, 514), struct.pack(">H", 0))),
            [WHITE, (1,) * 3, (2,) * 3],
            id="I;16 with a transparent value",
        ),
    ],
)
def test_transparency_is_composited_over_white(
    tmp_path: Path, save: Callable[[Path], object], expected: list[tuple[int, int, int]]
) -> None:
    save(tmp_path / "x.png")
    assert [tuple(pixel) for pixel in decoded(tmp_path / "x.png")[0].tolist()] == expected


@pytest.mark.parametrize(
    ("mode", "color", "suffix", "expected", "tolerance"),
    [
        ("CMYK", (0, 255, 255, 0), "tif", RED, 0),
        ("CMYK", (255, 0, 0, 0), "jpg", (0, 255, 255), 2),
        ("YCbCr", (76, 85, 255), "tif", RED, 2),
        ("LAB", (255, 128, 128), "tif", WHITE, 2),
        ("LAB", (138, 209, 198), "tif", RED, 6),  # D50: L* 54.3, a* 80.8, b* 69.9, in coarse steps
    ],
)
def test_other_colour_spaces(
    tmp_path: Path, mode: str, color: tuple[int, ...], suffix: str, expected: tuple[int, ...], tolerance: int
) -> None:
    path = tmp_path / f"x.{suffix}"
    Image.new(mode, (8, 8), color).save(path)
    with Image.open(path) as stored:
        assert stored.mode == mode
    assert np.abs(decoded(path).astype(int) - expected).max() <= tolerance


_UPRIGHT = np.array([[0, 60, 120], [180, 210, 240]], np.uint8)


_STORED = {  # how a camera held otherwise stores _UPRIGHT, by EXIF orientation
    1: _UPRIGHT,
    2: _UPRIGHT[:, ::-1],
    3: _UPRIGHT[::-1, ::-1],
    4: _UPRIGHT[::-1],
    5: _UPRIGHT.T,
    6: np.rot90(_UPRIGHT),
    7: _UPRIGHT[::-1, ::-1].T,
    8: np.rot90(_UPRIGHT, -1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_exif_orientation_is_applied_once(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"lossless": True} if suffix == "webp" else {}
    path = tmp_path / f"x.{suffix}"
    blocks = np.ones((8, 8), np.uint8)  # the blocks of JPEG, so that flat ones survive it
    Image.fromarray(gray_rgb(np.kron(_STORED[orientation], blocks))).save(path, exif=exif, **options)
    difference = decoded(path).astype(int) - gray_rgb(np.kron(_UPRIGHT, blocks))
    assert np.abs(difference).max() <= (1 if suffix == "jpg" else 0)


def test_orientation_of_a_16_bit_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(WIDE))).save(tmp_path / "x.png", exif=exif)
    assert (decoded(tmp_path / "x.png") == gray_rgb(WIDE_8_BIT)).all()


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_first_frame_of_several(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in (RED, GREEN, BLUE)]
    options: dict[str, Any] = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"x.{suffix}", save_all=True, append_images=frames[1:], **options)
    assert (decoded(tmp_path / f"x.{suffix}") == RED).all()
