"""A file that is no image is named for what it is; descriptions that cannot be read do not refuse an image."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, PngImagePlugin

from cfcam_gpu.errors import ImageError
from cfcam_gpu.images.decode import load_image_bytes
from tests.helpers.image_files import png


def _arrow(kind: str) -> bytes:
    table, buffer = pa.table({"a": [1]}), io.BytesIO()
    writer = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
    with writer(buffer, table.schema) as sink:
        sink.write_table(table)
    return buffer.getvalue()


def _box(brand: bytes) -> bytes:
    return struct.pack(">I", 24) + b"ftyp" + brand + bytes(60)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<!DOCTYPE html><p>404", "a web page, not an image"),
        (b"\xef\xbb\xbf\n <HTML><head>", "a web page, not an image"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:1",
            "a Git LFS pointer, not an image; run git lfs pull",
        ),
        (_box(b"heic"), "a HEIC image, which is not decoded; convert it to JPEG or PNG"),
        (_box(b"mif1"), "a HEIC image"),
        (b"\xff\x0a" + bytes(60), "a JPEG XL image, which is not decoded"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(60), "a JPEG XL image"),
        (_arrow("file"), "an Arrow file, not an image"),
        (_arrow("stream"), "an Arrow stream, not an image"),
        (b"PAR1" + bytes(60), "a Parquet file, not an image"),
        (b"%PDF-1.7\n", "a PDF document, not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (b"<?xml version='1.0'?>\n<svg/>", "an SVG drawing"),
        (b"PK\x03\x04" + bytes(60), "a zip archive"),
        (b"\x1f\x8b\x08" + bytes(60), "a gzip file"),
        (b"\x93NUMPY\x01\0" + bytes(60), "a NumPy array"),
        (b"\x89HDF\r\n\x1a\n" + bytes(60), "an HDF5 file"),
        (_box(b"isom"), "a video, not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a PostScript file"),
        (bytes(344) + b"n+1\0" + bytes(60), "a NIfTI volume"),
        (b"cat;dog\n", "not an image that can be read"),
    ],
)
def test_files_are_named_for_what_they_are(content: bytes, reason: str) -> None:
    with pytest.raises(ImageError) as caught:
        load_image_bytes(content, "x.jpg")
    assert str(caught.value).startswith(reason)


PIXELS = np.arange(12, dtype=np.uint8).reshape(4, 3)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _saved(kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.repeat(PIXELS[..., None], 3, 2)).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "exif", [b"junkjunk", b"Exif\0\0", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff" + bytes(9)]
)
@pytest.mark.parametrize("kind", ["png", "webp", "jpeg"])
def test_exif_that_cannot_be_parsed_means_orientation_1(kind: str, exif: bytes) -> None:
    if kind == "png":
        plain = _saved("png")
        content = plain[:33] + _chunk(b"eXIf", exif) + plain[33:]
    else:
        content = _saved(kind, exif=exif, **({"lossless": True} if kind == "webp" else {}))
    image = load_image_bytes(content)
    assert image.size == (3, 4)
    assert np.abs(np.asarray(image)[..., 0].astype(int) - PIXELS).max() <= (0 if kind != "jpeg" else 4)


@pytest.mark.parametrize("orientation", [0, 9, 255, 65535])
def test_orientations_that_do_not_exist_mean_1(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert (np.asarray(load_image_bytes(_saved("png", exif=exif)))[..., 0] == PIXELS).all()


def _with_chunk(kind: bytes, data: bytes, *, behind: bool) -> bytes:
    plain = png(0, 8, (3, 4), b"".join(b"\0" + bytes(row) for row in PIXELS))
    position = plain.index(b"IEND") - 4 if behind else 33
    return plain[:position] + _chunk(kind, data) + plain[position:]


LARGE = PngImagePlugin.MAX_TEXT_CHUNK + 1000


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (b"iCCP", b"profile\0\0" + zlib.compress(bytes(LARGE))),
        (b"iCCP", b"profile\0\0no zlib"),
        (b"zTXt", b"comment\0\0" + zlib.compress(bytes(LARGE))),
        (b"iTXt", b"comment\0\x01\0\0\0" + zlib.compress(b"x" * LARGE)),
        (b"tEXt", b"comment\0" + b"x" * (PngImagePlugin.MAX_TEXT_MEMORY + 1000)),
    ],
    ids=["profile", "damaged profile", "zTXt", "iTXt", "tEXt"],
)
def test_large_texts_and_profiles_do_not_refuse_the_picture(
    kind: bytes, data: bytes, *, behind: bool
) -> None:
    image = load_image_bytes(_with_chunk(kind, data, behind=behind))
    assert (np.asarray(image)[..., 0] == PIXELS).all()
