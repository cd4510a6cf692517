"""Decoding DICOM files to 8-bit RGB: modality LUT, VOI LUT or window, MONOCHROME1 inverted (extra `dicom`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from cfcam_gpu._utils.optional import require
from cfcam_gpu.errors import ImageError, MissingPackageError
from cfcam_gpu.images.limits import check_pixels

if TYPE_CHECKING:
    from pydicom.dataset import Dataset
    from pydicom.uid import UID

_HEAD = 132  # a preamble of 128 bytes, then "DICM"

#: Where files of several frames have the rescale and window that other files have at the top level.
_FUNCTIONAL_GROUPS = ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence")
_FRAME_MACROS = ("PixelValueTransformationSequence", "FrameVOILUTSequence")


def is_dicom(stream: BinaryIO, name: str) -> bool:
    """Whether a file is DICOM, by its content or else by its name.

    Args:
        stream: the open file, at its start; it is there again afterwards.
        name: the file's name.

    Example:
        >>> import io
        >>> is_dicom(io.BytesIO(bytes(128) + b"DICM"), "scan"), is_dicom(io.BytesIO(b"GIF89a"), "x.gif")
        (True, False)
    """
    head = stream.read(_HEAD)
    stream.seek(0)
    return head[128:] == b"DICM" or (name.lower().endswith((".dcm", ".dicom")) and head[:4] != b"\x89PNG")


def load_dicom(stream: BinaryIO, max_pixels: int) -> Image.Image:
    """The first frame of a DICOM file as an RGB image, 8 bits per channel.

    Grayscale goes through the modality LUT or rescale, then through the first VOI LUT or window; the
    range of that one's output becomes 0 to 255. Without VOI LUT and window, 0 to 255 is the whole range
    that the file can store (from bits stored and sign, after rescale), so that nothing is clipped.
    MONOCHROME1 is inverted. Colour is converted to RGB and scaled by its bits stored. The image's
    `info["cfcam"]` says what was done.

    Raises:
        ImageError: pydicom is not installed, or the file is damaged, has no pixels, more than
            `max_pixels` per frame, or a compression that no installed package decodes.
    """
    try:
        pydicom = require("pydicom", "dicom")
        pixel_array = require("pydicom.pixels.utils", "dicom").pixel_array
    except MissingPackageError as error:  # only the DICOM files among a run's images fail then
        raise ImageError(f"a DICOM file, but {error}") from error
    data = pydicom.dcmread(stream, force=True)
    _check(data, max_pixels)
    if "TransferSyntaxUID" not in data.file_meta:
        implicit, little_endian = data.original_encoding
        data.file_meta.TransferSyntaxUID = _syntax(implicit=implicit, little_endian=little_endian)
    _hoist_frame_macros(data)
    try:
        pixels = pixel_array(data, index=0)
    except (NotImplementedError, RuntimeError) as error:
        raise ImageError(_undecodable(data, error)) from error
    values, steps = (_gray if pixels.ndim == 2 and not _has_palette(data) else _colour)(pixels, data)
    if int(data.get("NumberOfFrames") or 1) > 1:
        steps.insert(0, f"first of {int(data.NumberOfFrames)} frames")
    image = Image.fromarray(values).convert("RGB")
    image.info = {"cfcam": ", ".join(steps)}
    return image


def _check(data: Dataset, max_pixels: int) -> None:
    if "PixelData" not in data:
        kind = data.get("SOPClassUID") or data.file_meta.get("MediaStorageSOPClassUID")
        raise ImageError(
            f"a DICOM file without an image ({kind.name})" if kind else "not a DICOM file with an image"
        )
    width, height = int(data.get("Columns") or 0), int(data.get("Rows") or 0)
    if width * height == 0:
        raise ImageError(f"truncated or corrupt: {width} columns and {height} rows")
    check_pixels(width, height, max_pixels)


def _syntax(*, implicit: bool | None, little_endian: bool | None) -> UID:
    """The transfer syntax of a file that does not state it, from what pydicom detected while reading."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little_endian else ExplicitVRBigEndian


def _undecodable(data: Dataset, error: Exception) -> str:
    syntax = data.file_meta.TransferSyntaxUID
    if syntax.is_compressed:
        return (
            f"cannot be decompressed ({syntax.name}): it is damaged, or a package that pydicom uses for this "
            "compression is missing, such as pylibjpeg or python-gdcm"
        )
    return f"truncated or corrupt: {' '.join(str(error).split())}"


def _hoist_frame_macros(data: Dataset) -> None:
    """Copies the first frame's rescale and window to the top level, where the functions below look for them."""
    for groups in _FUNCTIONAL_GROUPS:
        for macro in _FRAME_MACROS:
            for frame in (data.get(groups) or [])[:1]:
                for item in (frame.get(macro) or [])[:1]:
                    for element in item:
                        if element.tag not in data:
                            data.add(element)


def _has_palette(data: Dataset) -> bool:
    return bool(data.PhotometricInterpretation == "PALETTE COLOR")


def _gray(pixels: npt.NDArray[Any], data: Dataset) -> tuple[npt.NDArray[np.uint8], list[str]]:
    from pydicom.pixels.processing import apply_modality_lut, apply_voi, apply_windowing

    values = apply_modality_lut(pixels, data)
    low, high = _modality_range(data)
    if data.get("VOILUTSequence"):
        entries, first, bits = _descriptor(data.VOILUTSequence[0].LUTDescriptor)
        # pydicom lets values above an 8-bit table's end wrap around.
        values = apply_voi(np.clip(values, first, first + entries - 1), data)
        low, high, steps = 0.0, 2.0**bits - 1, ["VOI LUT"]
    elif data.get("WindowCenter") is not None and data.get("WindowWidth") is not None:
        values, steps = apply_windowing(values, data), [_window(data)]
    else:
        low, high = min(low, high), max(low, high)
        steps = [f"full range {low:g} to {high:g}"]
    gray = _to_8_bit(values, low, high)
    if data.PhotometricInterpretation == "MONOCHROME1":
        return 255 - gray, [*steps, "MONOCHROME1 inverted"]
    return gray, steps


def _window(data: Dataset) -> str:
    center, width = (np.atleast_1d(data[name].value) for name in ("WindowCenter", "WindowWidth"))
    function = str(data.get("VOILUTFunction") or "LINEAR")
    shape = "" if function == "LINEAR" else f" {function}"
    first = f" (first of {len(center)})" if len(center) > 1 else ""
    return f"window {float(center[0]):g}/{float(width[0]):g}{shape}{first}"


def _modality_range(data: Dataset) -> tuple[float, float]:
    """The smallest and the largest possible value after the modality LUT or rescale."""
    if data.get("ModalityLUTSequence"):
        return 0.0, 2.0 ** _descriptor(data.ModalityLUTSequence[0].LUTDescriptor)[2] - 1
    bits, signed = int(data.BitsStored), bool(data.PixelRepresentation)
    low, high = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)
    if data.get("RescaleSlope") is None or data.get("RescaleIntercept") is None:
        return low, high
    slope, intercept = float(data.RescaleSlope), float(data.RescaleIntercept)
    return low * slope + intercept, high * slope + intercept


def _descriptor(values: Any) -> tuple[int, int, int]:
    """Of a lookup table: number of entries, first value mapped, bits per entry."""
    entries, first, bits = (int(value) for value in values)
    return entries or 2**16, first, bits


def _colour(pixels: npt.NDArray[Any], data: Dataset) -> tuple[npt.NDArray[np.uint8], list[str]]:
    from pydicom.pixels.processing import apply_color_lut

    if _has_palette(data):
        bits = _descriptor(data.RedPaletteColorLookupTableDescriptor)[2]
        return _to_8_bit(apply_color_lut(pixels, data), 0, 2.0**bits - 1), ["palette"]
    return _to_8_bit(pixels, 0, 2.0 ** int(data.BitsStored) - 1), [str(data.PhotometricInterpretation)]


def _to_8_bit(values: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[np.uint8]:
    """Scales values so that `low` becomes 0 and `high` 255, and rounds them."""
    if low == high or not np.isfinite([low, high]).all():
        raise ImageError(f"truncated or corrupt: it declares values from {low:g} to {high:g}")
    scaled = (values.astype(np.float64) - low) * (255.0 / (high - low))
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
