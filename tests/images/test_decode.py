"""Every kind of image comes out as the right RGB pixels; every bad file as its plain reason."""

from __future__ import annotations

import io
import os
import pickle
import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin

from cfcam_gpu.errors import ImageError
from cfcam_gpu.images.decode import MAX_PIXELS, load_image, load_image_bytes

GRAY = np.array([[0, 100, 255], [10, 20, 30]], np.uint8)
WIDE = np.array([[0, 32768, 65535], [257, 2570, 65000]], np.uint16)
WIDE_8_BIT = np.array([[0, 128, 255], [1, 10, 253]], np.uint8)  # round(WIDE / 257), by hand


def _pixels(path: Path) -> np.ndarray:
    image = load_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)


def _gray(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=2)


def _tiff(values: np.ndarray, order: str, kind: int, changes: dict[int, int] | None = None) -> bytes:
    """A minimal uncompressed grayscale TIFF; kind 1: unsigned, 2: signed, 3: float; other tags by number."""
    height, width = values.shape
    data = values.tobytes()
    given = {256: width, 257: height, 258: values.itemsize * 8, 259: 1, 262: 1, 273: 0, 277: 1, 278: height}
    tags = sorted({**given, 279: len(data), 339: kind, **(changes or {})}.items())
    offset = 8 + 2 + 12 * len(tags) + 4
    body = b"".join(struct.pack(order + "HHII", tag, 4, 1, offset if tag == 273 else n) for tag, n in tags)
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(tags))
    return start + body + struct.pack(order + "I", 0) + data


def _png(
    color: int, depth: int, size: tuple[int, int], rows: bytes, transparent: bytes = b"", bits: bytes = b""
) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, color, 0, 0, 0))
    alpha = chunk(b"tRNS", transparent) if transparent else b""
    alpha = (chunk(b"gAMA", b"\0\0\xb1\x8f") + chunk(b"sBIT", bits) if bits else b"") + alpha
    return b"\x89PNG\r\n\x1a\n" + header + alpha + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp", "gif", "jpg"])
def test_rgb_of_common_formats(tmp_path: Path, suffix: str) -> None:
    flat = np.full((16, 24, 3), (200, 30, 90), np.uint8)
    options = {"lossless": True} if suffix == "webp" else {"quality": 100} if suffix == "jpg" else {}
    Image.fromarray(flat).save(tmp_path / f"x.{suffix}", **options)
    assert np.abs(_pixels(tmp_path / f"x.{suffix}").astype(int) - flat).max() <= (2 if suffix == "jpg" else 0)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp", "gif", "jpg", "mpo"])
def test_image_needs_its_file_no_longer(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    second = {"save_all": True, "append_images": [Image.new("RGB", (16, 24), BLUE)]}
    Image.new("RGB", (16, 24), RED).save(path, **(second if suffix in ("tif", "webp", "gif", "mpo") else {}))
    image = load_image(path)
    path.unlink()
    assert np.abs(np.asarray(image.resize((3, 5), box=(1, 1, 9, 9))).astype(int) - RED).max() <= 3
    assert np.abs(np.asarray(image.copy()).astype(int) - RED).max() <= 3
    assert pickle.loads(pickle.dumps(image)).size == (16, 24)


def test_grayscale_and_black_and_white(tmp_path: Path) -> None:
    Image.fromarray(GRAY).save(tmp_path / "l.png")
    Image.fromarray(GRAY > 50).save(tmp_path / "1.png")
    assert (_pixels(tmp_path / "l.png") == _gray(GRAY)).all()
    assert (_pixels(tmp_path / "1.png") == _gray(np.where(GRAY > 50, 255, 0))).all()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("i16.png", _png(0, 16, (3, 2), b"".join(b"\0" + row.astype(">u2").tobytes() for row in WIDE))),
        ("little.tif", _tiff(WIDE.astype("<u2"), "<", 1)),
        ("big.tif", _tiff(WIDE.astype(">u2"), ">", 1)),
        ("i32.tif", _tiff(WIDE.astype("<i4"), "<", 2)),
        ("i16.pgm", b"P5 3 2 65535\n" + WIDE.astype(">u2").tobytes()),
        ("float.tif", _tiff((WIDE / 65535).astype("<f4"), "<", 3)),
    ],
)
def test_more_than_8_bits_are_scaled_not_clipped(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert (_pixels(tmp_path / name) == _gray(WIDE_8_BIT)).all()


TWELVE = np.array([[0, 1024, 2048, 4095]], np.uint16)
TWELVE_8_BIT = np.array([[0, 64, 128, 255]], np.uint8)  # round(TWELVE * 255 / 4095), by hand


def _packed(values: np.ndarray) -> bytes:
    """A TIFF of 12 bits a pixel without gaps."""
    bits = "".join(f"{value:012b}" for value in values.ravel())
    data = int(bits, 2).to_bytes(len(bits) // 8, "big")
    whole = _tiff(values.astype("<u2"), "<", 1, {258: 12, 279: len(data)})
    return whole[: -values.nbytes] + data


def _png_16(values: np.ndarray, bits: int) -> bytes:
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return _png(0, 16, values.shape[::-1], rows, bits=bytes([bits]))


@pytest.mark.parametrize(
    ("name", "content", "expected", "choice"),
    [
        ("packed.tif", _packed(TWELVE), TWELVE_8_BIT, "0 to 4095 (BitsPerSample 12)"),
        (
            "declared.tif",
            _tiff(TWELVE.astype("<u2"), "<", 1, {340: 0, 341: 4095}),
            TWELVE_8_BIT,
            "0 to 4095 (SMinSampleValue, SMaxSampleValue)",
        ),
        (
            "above 16 bits.tif",
            _tiff(TWELVE.astype("<i4") + 100_000, "<", 2, {340: 100_000, 341: 104_095}),
            TWELVE_8_BIT,
            "100000 to 104095 (SMinSampleValue, SMaxSampleValue)",
        ),
        (
            "float.tif",
            _tiff(TWELVE.astype("<f4"), "<", 3, {341: 4095}),
            TWELVE_8_BIT,
            "0 to 4095 (SMinSampleValue, SMaxSampleValue)",
        ),
        (
            "white is zero.tif",
            _tiff(WIDE.astype("<u2"), "<", 1, {262: 0}),
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
        assert (np.asarray(image) == _gray(expected)).all()
        assert image.info == ({} if choice is None else {"cfcam": choice})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            _tiff(TWELVE.astype("<u2"), "<", 1, {340: 1, 341: 4000}),
            "16-bit pixels must be from 1 to 4000 (SMinSampleValue, SMaxSampleValue), got 0 to 4095",
        ),
        (
            _tiff(TWELVE.astype("<u2"), "<", 1, {340: 9, 341: 9}),
            "SMinSampleValue 9 must be below SMaxSampleValue 9",
        ),
    ],
)
def test_a_declared_range_that_does_not_hold_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(ImageError) as caught:
        load_image_bytes(content)
    assert str(caught.value) == reason


def test_bytes_are_read_like_files(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(_gray(GRAY)).save(buffer, "png", exif=exif)
    (tmp_path / "x.png").write_bytes(buffer.getvalue())
    image = load_image_bytes(buffer.getvalue())
    assert image.size == (2, 3)
    assert (np.asarray(image) == _pixels(tmp_path / "x.png")).all()
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


@pytest.mark.parametrize(
    ("values", "kind", "reason"),
    [
        (
            np.array([[-5, 9]], "<i2"),
            2,
            "32-bit integer pixels must be from 0 to 65535 (16-bit range), got -5 to 9",
        ),
        (
            np.array([[0, 65536]], "<i4"),
            2,
            "32-bit integer pixels must be from 0 to 65535 (16-bit range), got 0 to 65536",
        ),
        (np.array([[0.5, 1.5]], "<f4"), 3, "floating-point pixels must be from 0 to 1, got 0.5 to 1.5"),
        (np.array([[-1.0, 0.0]], "<f4"), 3, "floating-point pixels must be from 0 to 1, got -1 to 0"),
        (np.array([[0.5, np.nan]], "<f4"), 3, "floating-point pixels must be from 0 to 1, got nan to nan"),
    ],
)
def test_values_without_a_known_scale_are_refused(
    tmp_path: Path, values: np.ndarray, kind: int, reason: str
) -> None:
    (tmp_path / "x.tif").write_bytes(_tiff(values, "<", kind))
    with pytest.raises(ImageError) as caught:
        load_image(tmp_path / "x.tif")
    assert str(caught.value) == reason


def _palette(alpha: object) -> Callable[[Path], None]:
    def save(path: Path) -> None:
        image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), mode=None).convert("P")
        image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
        image.putdata([0, 1, 2])
        image.save(path, **({} if alpha is None else {"transparency": alpha}))

    return save


def _array(mode: str, values: list[object]) -> Callable[[Path], None]:
    def save(path: Path) -> None:
        image = Image.new(mode, (len(values), 1))
        image.putdata(values)
        image.save(path)

    return save


def _raw(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


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
            _raw(_png(2, 8, (3, 1), b"\0" + bytes((*RED, *GREEN, *BLUE)), struct.pack(">3H", *GREEN))),
            [RED, WHITE, BLUE],
            id="RGB with a transparent colour",
        ),
        pytest.param(
            _raw(_png(0, 8, (3, 1), b"\0\x05\x06\x07", struct.pack(">H", 6))),
            [(5,) * 3, WHITE, (7,) * 3],
            id="L with a transparent value",
        ),
        pytest.param(
            _raw(_png(0, 16, (3, 1), b"\0" + struct.pack(">3H", 0, 257, 514), struct.pack(">H", 0))),
            [WHITE, (1,) * 3, (2,) * 3],
            id="I;16 with a transparent value",
        ),
    ],
)
def test_transparency_is_composited_over_white(
    tmp_path: Path, save: Callable[[Path], object], expected: list[tuple[int, int, int]]
) -> None:
    save(tmp_path / "x.png")
    assert [tuple(pixel) for pixel in _pixels(tmp_path / "x.png")[0].tolist()] == expected


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
    assert np.abs(_pixels(path).astype(int) - expected).max() <= tolerance


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
    options = {"lossless": True} if suffix == "webp" else {}
    path = tmp_path / f"x.{suffix}"
    blocks = np.ones((8, 8), np.uint8)  # the blocks of JPEG, so that flat ones survive it
    Image.fromarray(_gray(np.kron(_STORED[orientation], blocks))).save(path, exif=exif, **options)
    difference = _pixels(path).astype(int) - _gray(np.kron(_UPRIGHT, blocks))
    assert np.abs(difference).max() <= (1 if suffix == "jpg" else 0)


def test_orientation_of_a_16_bit_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(WIDE))).save(tmp_path / "x.png", exif=exif)
    assert (_pixels(tmp_path / "x.png") == _gray(WIDE_8_BIT)).all()


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_first_frame_of_several(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in (RED, GREEN, BLUE)]
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"x.{suffix}", save_all=True, append_images=frames[1:], **options)
    assert (_pixels(tmp_path / f"x.{suffix}") == RED).all()


def _noise(suffix: str) -> bytes:
    """An encoded image that does not compress, so that cutting it cuts pixels."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, format=suffix)
    return buffer.getvalue()


@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
@pytest.mark.parametrize("suffix", ["png", "jpeg", "gif", "bmp", "tiff", "webp"])
def test_cut_files_are_refused(tmp_path: Path, suffix: str, share: float) -> None:
    content = _noise(suffix)
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ImageError, match=r"^(truncated or corrupt: \S.*|not an image that can be read)$"):
        load_image(path)


@pytest.mark.parametrize("suffix", ["png", "jpeg", "gif", "bmp", "tiff", "webp"])
def test_damaged_files_give_an_image_or_an_image_error(tmp_path: Path, suffix: str) -> None:
    content = _noise(suffix)
    generator = np.random.default_rng(1)
    path = tmp_path / f"x.{suffix}"
    for _ in range(60):
        damaged = bytearray(content)
        for position in generator.integers(0, min(400, len(content)), 4):
            damaged[position] = generator.integers(256)
        path.write_bytes(damaged)
        outcome = _mode_or_reason(path)
        assert outcome == "RGB" or outcome.strip()
        assert "\n" not in outcome


def _mode_or_reason(path: Path) -> str:
    try:
        return load_image(path, max_pixels=1_000_000).mode
    except ImageError as error:
        return str(error)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"these are notes, no picture", "not an image that can be read"),
        (b"<!DOCTYPE html><html></html>", "not an image that can be read"),
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
            "not an image that can be read",
        ),
    ],
)
def test_files_that_are_no_image(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(ImageError) as caught:
        load_image(tmp_path / "x.png")
    assert str(caught.value) == reason


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    reasons = {
        "": "a folder, not an image file",
        "gone.png": "the file does not exist",
        "loop": "cannot be read: Too many levels of symbolic links",
        "pipe": "not a regular file",
    }
    for name, reason in reasons.items():
        with pytest.raises(ImageError) as caught:
            load_image(tmp_path / name)
        assert str(caught.value) == reason
    with pytest.raises(ImageError, match=r"^no file can have this name: it contains a null character$"):
        load_image(Path("a\0b"))


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (PermissionError(13, "Permission denied"), "no permission to read the file"),
        (FileNotFoundError(2, "No such file"), "the file does not exist"),  # vanished after the first look
        (OSError(5, "Input/output error"), "cannot be read: Input/output error"),
        (
            OSError("broken data stream\nwhen reading image file"),
            "truncated or corrupt: broken data stream when reading image file",
        ),
        (struct.error("unpack requires 4 bytes"), "truncated or corrupt: error unpack requires 4 bytes"),
        (SyntaxError("not a TIFF file"), "truncated or corrupt: not a TIFF file"),
        (EOFError(), "truncated or corrupt: EOFError"),
        (KeyError("x"), "truncated or corrupt: KeyError 'x'"),
        (MemoryError(), "not enough memory to decode it"),
    ],
)
def test_whatever_pillow_raises_becomes_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, reason: str
) -> None:
    def load(self: ImageFile.ImageFile) -> None:
        raise raised

    Image.fromarray(GRAY).save(tmp_path / "x.bmp")
    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(ImageError) as caught:
        load_image(tmp_path / "x.bmp")
    assert str(caught.value) == reason
    assert caught.value.__cause__ is raised


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read every file")
def test_file_without_permission(tmp_path: Path) -> None:
    Image.fromarray(GRAY).save(tmp_path / "x.png")
    (tmp_path / "x.png").chmod(0)
    with pytest.raises(ImageError, match=r"^no permission to read the file$"):
        load_image(tmp_path / "x.png")


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((12000, 12000), "12000×12000 = 144,000,000 pixels is over the limit of 89,478,485"),  # noqa: RUF001
        ((60000, 60000), "3,600,000,000 pixels is over the limit of 89,478,485"),  # Pillow refuses first
    ],
)
def test_decompression_bomb_is_refused_from_its_header(
    tmp_path: Path, size: tuple[int, int], reason: str
) -> None:
    (tmp_path / "x.png").write_bytes(_png(0, 8, size, b""))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError) as caught:
            load_image(tmp_path / "x.png")
    assert str(caught.value) == reason


def test_limit_of_pixels_is_inclusive_and_pillows_by_default(tmp_path: Path) -> None:
    Image.fromarray(GRAY).save(tmp_path / "x.png")
    assert load_image(tmp_path / "x.png", max_pixels=6).size == (3, 2)
    with pytest.raises(ImageError, match=r"= 6 pixels is over the limit of 5$"):
        load_image(tmp_path / "x.png", max_pixels=5)
    assert MAX_PIXELS == 89_478_485


def test_threads_decode_quietly_and_leave_the_warning_filters_alone(tmp_path: Path) -> None:
    exif = (
        b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0\x01\0"  # a directory that ends too early: Pillow warns
    )
    Image.fromarray(_gray(GRAY)).save(tmp_path / "x.jpg", exif=exif)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        before = list(warnings.filters)
        with Image.open(tmp_path / "x.jpg") as image:
            image.getexif()
        assert heard, "the file must make Pillow warn, else this test protects nothing"
        heard.clear()
        threads = [
            threading.Thread(target=lambda: [load_image(tmp_path / "x.jpg") for _ in range(30)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not heard
        assert warnings.filters == before
