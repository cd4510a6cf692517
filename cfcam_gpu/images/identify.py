"""What a file is that cannot be decoded: a web page, a pointer, a format that needs another program."""

from __future__ import annotations

from typing import BinaryIO

#: How much of the file is looked at.
_HEAD = 512

#: What a file begins with, in lower case and without leading white space -> what it is.
_TEXTS = {
    b"version https://git-lfs": "a Git LFS pointer, not an image; run git lfs pull",
    b"<!doctype html": "a web page, not an image; download the file itself",
    b"<html": "a web page, not an image; download the file itself",
    b"<svg": "an SVG drawing, not an image of pixels; convert it to PNG",
    b"%!ps": "a PostScript file, not an image of pixels; convert it to PNG",
    b"%pdf": "a PDF document, not an image; export its pages as PNG",
    b'<?xml version="1.0" encoding="utf-8"?><error': "an error message of a web server, not an image",
}

_CONVERT = "which is not decoded; convert it to JPEG or PNG"

#: (offset, bytes there) -> what it is.
_MAGIC = {
    (0, b"ARROW1"): "an Arrow file, not an image; give the folder that save_to_disk wrote",
    (0, b"\xff\xff\xff\xff"): "an Arrow stream, not an image; give the folder that save_to_disk wrote",
    (0, b"PAR1"): "a Parquet file, not an image; name it itself to read it as a manifest",
    (0, b"\x93NUMPY"): "a NumPy array, not an image; save it as PNG or TIFF",
    (0, b"\x89HDF"): "an HDF5 file, not an image; save its images as PNG or TIFF",
    (0, b"PK\x03\x04"): "a zip archive, not an image; unpack it",
    (0, b"\x1f\x8b"): "a gzip file, not an image; unpack it",
    (0, b"Rar!"): "a RAR archive, not an image; unpack it",
    (0, b"7z\xbc\xaf"): "a 7-Zip archive, not an image; unpack it",
    (257, b"ustar"): "a tar archive; give it the extension .tar to read it as a shard",
    (0, b"\xff\x0a"): f"a JPEG XL image, {_CONVERT}",
    (0, b"\0\0\0\x0cJXL "): f"a JPEG XL image, {_CONVERT}",
    (0, b"\xc5\xd0\xd3\xc6"): "a PostScript file, not an image of pixels; convert it to PNG",
    (0, b"II\xbc"): f"a JPEG XR image, {_CONVERT}",
    (0, b"RIFF"): "a RIFF file (video or sound) that is no WebP image",
    (0, b"\x1aE\xdf\xa3"): "a Matroska video, not an image; extract its frames",
    (344, b"n+1\0"): "a NIfTI volume, not an image; save its slices as PNG",
    (344, b"ni1\0"): "a NIfTI volume, not an image; save its slices as PNG",
}

#: Brand of an ISO base media file, at byte 8 -> what it is.
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_BRANDS = {
    **dict.fromkeys(_HEIC, f"a HEIC image, {_CONVERT}"),
    **dict.fromkeys((b"avif", b"avis"), f"an AVIF image, {_CONVERT}"),
}


def what_it_is(stream: BinaryIO) -> str:
    """Why a file that no decoder takes is no image, as far as its beginning tells.

    Args:
        stream: the file, at any position.

    Example:
        >>> import io
        >>> what_it_is(io.BytesIO(b"<!DOCTYPE html><p>404"))
        'a web page, not an image; download the file itself'
        >>> what_it_is(io.BytesIO(b"some notes"))
        'not an image that can be read'
    """
    stream.seek(0)
    head = stream.read(_HEAD)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for start, meaning in _TEXTS.items():
        if text.startswith(start):
            return meaning
    if text.startswith(b"<?xml") and b"<svg" in text:
        return _TEXTS[b"<svg"]
    for (offset, magic), meaning in _MAGIC.items():
        if head[offset:].startswith(magic):
            return meaning
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], "a video, not an image; extract its frames")
    return "not an image that can be read"
