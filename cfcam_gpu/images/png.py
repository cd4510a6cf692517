"""PNG files: the significant bits of gray, and texts and colour profiles that are too large for Pillow."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO

_SIGNATURE = b"\x89PNG\r\n\x1a\n"

#: Chunks that describe an image and do not change its pixels here.
_DESCRIPTIVE = (b"iCCP", b"tEXt", b"zTXt", b"iTXt")


def significant_bits(stream: BinaryIO) -> int:
    """The significant bits of gray in the sBIT chunk; 0 without that chunk. The position is restored."""
    before = stream.tell()
    try:
        for kind, length in _chunks(stream):
            if kind == b"IDAT":
                return 0
            if kind == b"sBIT" and length:
                return stream.read(1)[0]
        return 0
    finally:
        stream.seek(before)


def without_descriptions(stream: BinaryIO) -> BinaryIO | None:
    """A PNG file without its texts and colour profile; None for any other file.

    Pillow refuses the whole image for a text or profile that is longer than it allows.

    Example:
        >>> without_descriptions(io.BytesIO(b"GIF89a")) is None
        True
    """
    stream.seek(0)
    if stream.read(len(_SIGNATURE)) != _SIGNATURE:
        return None
    kept = io.BytesIO()
    kept.write(_SIGNATURE)
    for kind, length in _chunks(stream):
        if kind not in _DESCRIPTIVE:
            kept.write(length.to_bytes(4, "big") + kind + stream.read(length + 4))
    kept.seek(0)
    return kept


def _chunks(stream: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Kind and length of every chunk; the stream is then at the chunk's data, and may be moved."""
    position = len(_SIGNATURE)
    while True:
        stream.seek(position)
        head = stream.read(8)
        if len(head) < 8:
            return
        length = int.from_bytes(head[:4], "big")
        yield head[4:], length
        position += 12 + length
