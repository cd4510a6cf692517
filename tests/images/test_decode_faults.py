"""Damaged files, files that are no image and files that are too large: each fails with a plain reason."""

from __future__ import annotations

import io
import os
import struct
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from cfcam_gpu.errors import ImageError
from cfcam_gpu.images import decode, dicom
from cfcam_gpu.images.decode import load_image, load_image_bytes
from cfcam_gpu.images.limits import MAX_PIXELS
from tests.helpers.image_files import GRAY, gray_rgb, png


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
        (b"<!DOCTYPE html><html></html>", "a web page, not an image; download the file itself"),
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
            "a PostScript file, not an image of pixels; convert it to PNG",
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
    def load(_: ImageFile.ImageFile) -> None:
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
        (
            (12000, 12000),
            "12000×12000 = 144,000,000 pixels is over the limit of 89,478,485; "  # noqa: RUF001
            "--max-pixels allows more",
        ),
        (
            (60000, 60000),
            "3,600,000,000 pixels is over the limit of 89,478,485; --max-pixels allows more",
        ),  # Pillow refuses first
    ],
)
def test_decompression_bomb_is_refused_from_its_header(
    tmp_path: Path, size: tuple[int, int], reason: str
) -> None:
    (tmp_path / "x.png").write_bytes(png(0, 8, size, b""))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError) as caught:
            load_image(tmp_path / "x.png")
    assert str(caught.value) == reason


def test_limit_of_pixels_is_inclusive_and_pillows_by_default(tmp_path: Path) -> None:
    Image.fromarray(GRAY).save(tmp_path / "x.png")
    assert load_image(tmp_path / "x.png", max_pixels=6).size == (3, 2)
    with pytest.raises(ImageError, match=r"= 6 pixels is over the limit of 5; --max-pixels allows more$"):
        load_image(tmp_path / "x.png", max_pixels=5)
    assert MAX_PIXELS == 89_478_485


def test_threads_decode_quietly_and_leave_the_warning_filters_alone(tmp_path: Path) -> None:
    exif = (
        b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0\x01\0"  # a directory that ends too early: Pillow warns
    )
    Image.fromarray(gray_rgb(GRAY)).save(tmp_path / "x.jpg", exif=exif)
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


def test_warnings_of_the_decoding_modules_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def warn(*_: object) -> bool:
        warnings.warn_explicit("odd tag", UserWarning, dicom.__file__, 1, module=dicom.__name__)
        return False

    monkeypatch.setattr(decode, "is_dicom", warn)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        assert load_image_bytes(b"P5 1 1 255 \xff").size == (1, 1)
        assert not heard
        warn()
        assert heard, "outside of decoding the same warning is shown"
