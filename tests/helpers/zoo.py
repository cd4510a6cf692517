"""Some 1,500 image files made by code, each with the pixels that it means, computed here by plain formulas."""

from __future__ import annotations

import io
import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from tests.helpers.image_files import png, tiff

Array = np.ndarray

#: (width, height)
SIZES = ((1, 1), (3, 2), (17, 5), (5, 17), (40, 33))


@dataclass(frozen=True)
class Case:
    """A file.

    Attributes:
        name: says what is in it.
        expected: (H, W, 3) pixels from 0 to 255, not rounded; or what the error begins with.
        tolerance: levels by which a pixel may differ: 0.5 for rounding, more for lossy formats.
        value_range: given to the reader.
    """

    name: str
    content: bytes
    expected: Array | str
    tolerance: float = 0.501
    value_range: str | None = None


def _gray(values: Array) -> Array:
    return np.repeat(np.asarray(values, np.float64)[..., None], 3, 2)


def _encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _ramp(width: int, height: int, top: int) -> Array:
    return np.linspace(0, top, width * height).reshape(height, width).astype(np.int64)


def plain() -> Iterator[Case]:
    """Every lossless format in every mode that it holds; transparent pixels are over white."""
    kinds = {
        "png": ("1", "L", "LA", "P", "RGB", "RGBA"), "bmp": ("1", "L", "P", "RGB"), "gif": ("L", "P"),
        "tiff": ("1", "L", "LA", "P", "RGB", "RGBA"), "webp": ("RGB", "RGBA"), "ppm": ("1", "L", "RGB"),
        "tga": ("L", "LA", "RGB", "RGBA"), "pcx": ("L", "RGB"), "sgi": ("L", "RGB"), "dds": ("L", "RGB", "RGBA"),
    }  # fmt: skip
    for kind, modes in kinds.items():
        for mode, (width, height) in itertools.product(modes, SIZES):
            if kind == "pcx" and width % 2:
                continue
            image, expected = _picture(mode, width, height)
            options: dict[str, Any] = {"lossless": True, "exact": True} if kind == "webp" else {}
            yield Case(f"{kind} {mode} {width}x{height}", _encode(image, kind, **options), expected)


def _picture(mode: str, width: int, height: int) -> tuple[Image.Image, Array]:
    gray = _ramp(width, height, 255).astype(np.uint8)
    colour = np.dstack([gray, gray[::-1], np.full_like(gray, 90)])
    opacity = np.where(gray % 3 == 0, 0, 255).astype(np.uint8)
    if mode == "1":
        bits = gray > 100
        return Image.fromarray(bits), _gray(bits * 255.0)
    if mode == "L":
        return Image.fromarray(gray), _gray(gray)
    if mode == "LA":
        return Image.fromarray(np.dstack([gray, opacity])), _gray(np.where(opacity, gray, 255))
    if mode == "P":
        index = (gray % 4).astype(np.uint8)
        palette = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 8, 7]])
        image = Image.fromarray(index, "P")
        image.putpalette(palette.ravel().tolist())
        return image, palette[index].astype(np.float64)
    if mode == "RGBA":
        over = np.where(opacity[..., None] > 0, colour, 255)
        return Image.fromarray(np.dstack([colour, opacity])), over.astype(np.float64)
    return Image.fromarray(colour), colour.astype(np.float64)


#: EXIF orientation -> from the pixels as they are stored to upright ones.
UPRIGHT = {
    1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}  # fmt: skip


def oriented() -> Iterator[Case]:
    """Every EXIF orientation, also in 16 bits, and EXIF that means nothing."""
    for kind, mode, orientation in itertools.product(
        ("png", "tiff", "webp", "jpeg"), ("L", "RGB", "I;16"), (*UPRIGHT, 0, 9, 300)
    ):
        if mode == "I;16" and kind in ("webp", "jpeg"):
            continue
        turn = UPRIGHT.get(orientation, UPRIGHT[1])
        exif = Image.Exif()
        exif[0x0112] = orientation
        if mode == "I;16":
            values = _ramp(24, 16, 65535)
            image, stored = Image.fromarray(values.astype(np.uint16)), _gray(values / 257)
        else:
            small, pixels = _picture(mode, 3, 2)
            image = small.resize((24, 16), Image.Resampling.NEAREST)
            stored = np.kron(pixels, np.ones((8, 8, 1)))
        options: dict[str, Any] = {"lossless": True} if kind == "webp" else {}
        if kind == "jpeg":
            options = {"quality": 100, "subsampling": 0}
        content = _encode(image, kind, exif=exif, **options)
        yield Case(
            f"{kind} {mode} orientation {orientation}", content, turn(stored), 3 if kind == "jpeg" else 0.501
        )


def wide() -> Iterator[Case]:
    """Gray of 9 to 16 bits in PNG, TIFF and PGM, by its declared range or by a value range."""
    for bits, (width, height) in itertools.product((9, 10, 12, 14, 16), SIZES[1:]):
        top = 2**bits - 1
        values = _ramp(width, height, top)
        full, spread = _gray(values * 255 / 65535), _gray(values * 255 / top)
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
        shifted = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values << (16 - bits))
        files = {
            "png": png(0, 16, (width, height), rows), "little tiff": tiff(values.astype("<u2"), "<", 1),
            "big tiff": tiff(values.astype(">u2"), ">", 1), "tiff of 32 bits": tiff(values.astype("<i4"), "<", 2),
        }  # fmt: skip
        declared = {
            "sBIT": png(0, 16, (width, height), shifted, bits=bytes([bits])),
            "SMaxSampleValue": tiff(values.astype("<u2"), "<", 1, {340: 0, 341: top}),
            "maxval": b"P5 %d %d %d\n" % (width, height, top) + values.astype(">u2").tobytes(),
            "float": tiff((values / top).astype("<f4"), "<", 3),
        }
        size = f"{bits} bits {width}x{height}"
        for name, content in files.items():
            yield Case(f"{name} {size}", content, full)
            for text in (f"0,{top}", "auto", "percentile:0"):
                yield Case(f"{name} {size} {text}", content, spread, value_range=text)
            middle = _gray(np.clip((values - top / 4) / (top / 2), 0, 1) * 255)
            yield Case(f"{name} {size} half", content, middle, value_range=f"{top / 4},{top * 3 / 4}")
        for name, content in declared.items():
            yield Case(f"{name} {size}", content, spread)
        white = tiff(values.astype("<u2"), "<", 1, {262: 0})
        yield Case(f"WhiteIsZero {size}", white, 255 - full, 1.001)


def tiffs() -> Iterator[Case]:
    """TIFF in colour: samples by pixel and by plane, in 8 and 16 bits and floats, in tiles and strips."""
    generator = np.random.default_rng(0)
    for (kind, scale), channels, planar, tile, order in itertools.product(
        (("u1", 255), ("u2", 65535), ("f4", 1), ("f2", 1), ("f8", 1)),
        (1, 3),
        ("contig", "separate"),
        (None, (16, 16)),
        "<>",
    ):
        if channels == 1 and planar == "separate":
            continue
        values = (generator.random((20, 30, channels)) * scale).astype(kind)
        stored = np.moveaxis(values, -1, 0) if planar == "separate" else values.squeeze()
        buffer = io.BytesIO()
        photometric = "rgb" if channels == 3 else "minisblack"
        options = {"planarconfig": planar} if channels == 3 else {}
        tifffile.imwrite(buffer, stored, photometric=photometric, tile=tile, byteorder=order, **options)  # type: ignore[arg-type]
        expected = np.broadcast_to(values.astype(np.float64) * (255 / scale), (20, 30, 3))
        # Pillow keeps the upper byte of 16-bit colour.
        tolerance = 1.0 if kind == "u2" and channels == 3 and planar == "contig" else 0.52
        yield Case(
            f"tiff {kind} {channels} {planar} tile {tile} {order}", buffer.getvalue(), expected, tolerance
        )


def dicoms() -> Iterator[Case]:
    """DICOM gray by the standard's formulas: bits, sign, rescale, window and its function, MONOCHROME1."""
    from pydicom.dataset import Dataset, FileMetaDataset

    windows: tuple[tuple[Any, Any, Any], ...] = (
        (None, None, None), (0.25, 0.5, None), (0.5, 0.4, "LINEAR"), (0.5, 0.4, "LINEAR_EXACT"), (0.5, 0.4, "SIGMOID"),
        (0.5, 0, None), ("", "", ""),
    )  # fmt: skip
    for bits, signed, (slope, intercept), window, photometric in itertools.product(
        (8, 10, 12, 16), (0, 1), ((None, None), ("", ""), (1, -1024), (2.5, 10), (-1, 0)), windows, (1, 2)
    ):
        span = 2**bits
        lowest = -span // 2 if signed else 0
        stored = np.linspace(lowest, lowest + span - 1, 24).astype(np.int64).reshape(3, 8)
        data: Any = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
        data.Rows, data.Columns, data.SamplesPerPixel = 3, 8, 1
        data.PhotometricInterpretation = f"MONOCHROME{photometric}"
        data.BitsAllocated = 8 if bits == 8 else 16
        data.BitsStored, data.HighBit, data.PixelRepresentation = bits, bits - 1, signed
        data.PixelData = stored.astype(f"<{'i' if signed else 'u'}{data.BitsAllocated // 8}").tobytes()
        data["PixelData"].VR = "OB" if bits == 8 else "OW"
        if slope is not None:
            data.RescaleSlope, data.RescaleIntercept = slope or None, intercept if slope else None
        low, high = (float(v) for v in (lowest, lowest + span - 1))
        values = stored.astype(np.float64)
        if slope not in (None, ""):
            low, high, values = (v * slope + intercept for v in (low, high, values))
        center, width, function = window
        exact = None
        if center is not None:
            if width != "":
                exact = (float(round(low + center * (high - low))), float(round(abs(high - low) * width)))
            data.WindowCenter, data.WindowWidth = exact or (None, None)
            data.VOILUTFunction = function or None
        if exact is None or exact[1] == 0:
            low, high = sorted((low, high))
        else:
            values = _windowed(values, *exact, function, low, high)
        gray = np.clip((values - low) / (high - low), 0, 1) * 255
        buffer = io.BytesIO()
        data.save_as(buffer, enforce_file_format=True)
        expected = _gray(255 - gray if photometric == 1 else gray)
        name = f"dicom {bits} {'signed' if signed else 'unsigned'} {slope}/{intercept} {window} {photometric}"
        yield Case(name, buffer.getvalue(), expected)


def _windowed(
    values: Array, center: float, width: float, function: str | None, low: float, high: float
) -> Array:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3."""
    if function == "SIGMOID":
        return (high - low) / (1 + np.exp(-4 * (values - center) / width)) + low
    if function == "LINEAR_EXACT":
        below, above = values <= center - width / 2, values > center + width / 2
        inside = ((values - center) / width + 0.5) * (high - low) + low
    else:
        below, above = values <= center - 0.5 - (width - 1) / 2, values > center - 0.5 + (width - 1) / 2
        inside = ((values - (center - 0.5)) / (width - 1) + 0.5) * (high - low) + low
    return np.where(below, low, np.where(above, high, inside))


def others() -> Iterator[Case]:
    """Files that are no image, named for what they are, and cut files."""
    starts = {
        b"<!DOCTYPE html>": "a web page", b"<html>": "a web page", b"version https://git-lfs": "a Git LFS pointer",
        b"%PDF-1.4": "a PDF document", b"PK\x03\x04": "a zip archive", b"\x1f\x8b": "a gzip file",
        b"PAR1": "a Parquet file", b"ARROW1\0\0": "an Arrow file", b"\x93NUMPY": "a NumPy array",
        b"\x89HDF\r\n\x1a\n": "an HDF5 file", b"%!PS-Adobe": "a PostScript file", b"\xff\x0a": "a JPEG XL image",
        struct.pack(">I", 24) + b"ftypheic": "a HEIC image", struct.pack(">I", 24) + b"ftypisom": "a video",
        b"<svg": "an SVG drawing", b"notes": "not an image that can be read",
    }  # fmt: skip
    for (start, reason), size in itertools.product(starts.items(), (40, 700, 5000)):
        yield Case(f"{reason} {start!r} {size}", start + b" " * size, reason)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8))
    for kind, share in itertools.product(("png", "jpeg", "gif", "bmp", "tiff"), (0.4, 0.5, 0.6, 0.7, 0.9)):
        content = _encode(picture, kind)
        yield Case(f"{kind} cut at {share}", content[: int(len(content) * share)], "truncated or corrupt: ")


#: Kind -> its files.
ZOO = {function.__name__: function for function in (plain, oriented, wide, tiffs, dicoms, others)}
