"""Minimal image files, byte by byte, and the pixels that come out of them."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

from cfcam_gpu.images.decode import load_image

GRAY = np.array([[0, 100, 255], [10, 20, 30]], np.uint8)
WIDE = np.array([[0, 32768, 65535], [257, 2570, 65000]], np.uint16)
WIDE_8_BIT = np.array([[0, 128, 255], [1, 10, 253]], np.uint8)  # round(WIDE / 257), by hand


def decoded(path: Path) -> np.ndarray:
    image = load_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)


def gray_rgb(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=2)


def tiff(values: np.ndarray, order: str, kind: int, changes: dict[int, int] | None = None) -> bytes:
    """A minimal uncompressed grayscale TIFF; kind 1: unsigned, 2: signed, 3: float; other tags by number."""
    height, width = values.shape
    data = values.tobytes()
    tags_and_values = {  # size, bits, no compression, black is zero, offset, one sample, one strip
        256: width,
        257: height,
        258: values.itemsize * 8,
        259: 1,
        262: 1,
        273: 0,
        277: 1,
        278: height,
    }
    tags = sorted({**tags_and_values, 279: len(data), 339: kind, **(changes or {})}.items())
    offset = 8 + 2 + 12 * len(tags) + 4
    body = b"".join(struct.pack(order + "HHII", tag, 4, 1, offset if tag == 273 else n) for tag, n in tags)
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(tags))
    return start + body + struct.pack(order + "I", 0) + data


def png(
    color: int, depth: int, size: tuple[int, int], rows: bytes, transparent: bytes = b"", bits: bytes = b""
) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, color, 0, 0, 0))
    alpha = chunk(b"tRNS", transparent) if transparent else b""
    alpha = (chunk(b"gAMA", b"\0\0\xb1\x8f") + chunk(b"sBIT", bits) if bits else b"") + alpha
    return b"\x89PNG\r\n\x1a\n" + header + alpha + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
