"""Decoding DICOM files to 8-bit RGB: modality LUT, VOI LUT or window, MONOCHROME1 inverted (extra `dicom`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from cfcam_gpu._utils.optional import require
from cfcam_gpu.errors import ImageError, MissingPackageError
from cfcam_gpu.images.dicom_gray import Gray
from cfcam_gpu.images.dicom_jpeg import holds_ycbcr
from cfcam_gpu.images.gray_range import scaled_to_8_bit, to_picture
from cfcam_gpu.images.limits import check_pixels
from cfcam_gpu.images.read_options import ReadOptions

if TYPE_CHECKING:
    from pydicom.dataset import Dataset
    from pydicom.uid import UID

_HEAD = 132  # a preamble of 128 bytes, then "DICM"

#: Where files of several frames have the rescale and window that other files have at the top level.
_FUNCTIONAL_GROUPS = ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence")
_FRAME_MACROS = ("PixelValueTransformationSequence", "FrameVOILUTSequence")

#: Elements that count as absent where they are there without a value, as anonymisers leave them.
_OPTIONAL = (
    "RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "VOILUTFunction", "ModalityLUTSequence",
    "VOILUTSequence", "PixelPaddingValue", "PixelPaddingRangeLimit", "NumberOfFrames", "PlanarConfiguration",
)  # fmt: skip

#: What a data set without preamble begins with: an element of group 0008 or 0002 that files begin with, and in
#: explicit transfer syntaxes a value representation.
_GROUPS = {b"\x02\x00": "little", b"\x08\x00": "little", b"\x00\x08": "big"}
_ELEMENTS = {0x0000, 0x0005, 0x0008, 0x0012, 0x0013, 0x0014, 0x0015, 0x0016, 0x0018}
_REPRESENTATIONS = {b"UL", b"OB", b"UI", b"CS", b"DA", b"TM", b"SH", b"LO"}

#: Transfer syntax -> the packages that decode it, as pip installs them; pydicom decodes the others with Pillow.
_DECODED_BY = {
    "1.2.840.10008.1.2.4.57": "pylibjpeg pylibjpeg-libjpeg",
    "1.2.840.10008.1.2.4.70": "pylibjpeg pylibjpeg-libjpeg",
    "1.2.840.10008.1.2.4.51": "pylibjpeg pylibjpeg-libjpeg",
    "1.2.840.10008.1.2.4.80": "pyjpegls",
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.90": "pylibjpeg pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.91": "pylibjpeg pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.201": "pylibjpeg pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.202": "pylibjpeg pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.203": "pylibjpeg pylibjpeg-openjpeg",
}


def is_dicom(stream: BinaryIO, name: str) -> bool:
    """Whether a file is DICOM, by its content or else by its name.

    Args:
        stream: the open file, at its start; it is there again afterwards.
        name: the file's name.

    Example:
        >>> import io
        >>> is_dicom(io.BytesIO(bytes(128) + b"DICM"), "scan"), is_dicom(io.BytesIO(b"GIF89a"), "x.gif")
        (True, False)
        >>> is_dicom(io.BytesIO(bytes.fromhex("08000500") + b"CS" + bytes(8)), "IM1")
        True
    """
    head = stream.read(_HEAD)
    stream.seek(0)
    if head[128:] == b"DICM" or _begins_with_an_element(head):
        return True
    return name.lower().endswith((".dcm", ".dicom")) and head[:4] != b"\x89PNG"


def _begins_with_an_element(head: bytes) -> bool:
    order: Any = _GROUPS.get(head[:2])
    if order is None or int.from_bytes(head[2:4], order) not in _ELEMENTS:
        return False
    implicit = head[:2] == b"\x08\x00" and int.from_bytes(head[4:8], "little") <= 64 and len(head) > 16
    return head[4:6] in _REPRESENTATIONS or implicit


def load_dicom(stream: BinaryIO, options: ReadOptions) -> Image.Image:
    """The first frame of a DICOM file as an RGB image, 8 bits per channel; see `ReadOptions.fine_gray`.

    Grayscale goes through the modality LUT or rescale, then through the first VOI LUT or window; the
    range of that one's output becomes 0 to 255. Without VOI LUT and window, 0 to 255 is the whole range
    that the file can store (from bits stored and sign, after rescale), so that nothing is clipped.
    `options.value_range`, of values after the rescale, takes the place of all of these. MONOCHROME1 is inverted,
    padding is black. Colour is converted to RGB and scaled by its bits stored. The image's `info["cfcam"]` says
    what was done, `info["cfcam_warning"]` where few gray levels are left.

    Raises:
        ImageError: pydicom is not installed, or the file is damaged, has no pixels, more than
            `options.max_pixels` per frame, or a compression that no installed package decodes.
    """
    try:
        pydicom = require("pydicom", "dicom")
    except MissingPackageError as error:  # only the DICOM files among a run's images fail then
        raise ImageError(f"a DICOM file, but {error}") from error
    data = pydicom.dcmread(stream, force=True)
    _check(data, options.max_pixels)
    if "TransferSyntaxUID" not in data.file_meta:
        implicit, little_endian = data.original_encoding
        data.file_meta.TransferSyntaxUID = _syntax(implicit=implicit, little_endian=little_endian)
    _hoist_frame_macros(data)
    _drop_empty(data)
    notes = (
        [f"first of {int(data.NumberOfFrames)} frames"] if int(data.get("NumberOfFrames") or 1) > 1 else []
    )
    if holds_ycbcr(data):
        data.PhotometricInterpretation = "YBR_FULL"
        notes.append("YCbCr called RGB")
    pixels = _pixels(data)
    warning = None
    if pixels.ndim == 2 and not _has_palette(data):
        rounded = not options.fine_gray
        values, steps, warning = Gray(data).reduced(pixels, options.value_range, rounded=rounded)
    else:
        values, steps = _colour(pixels, data)
    image = to_picture(values)
    image.info = {"cfcam": ", ".join([*notes, *steps, *([warning] if warning else [])])}
    if warning:
        image.info["cfcam_warning"] = warning
    return image


def _pixels(data: Dataset) -> npt.NDArray[Any]:
    pixel_array = require("pydicom.pixels.utils", "dicom").pixel_array
    try:
        pixels: npt.NDArray[Any] = pixel_array(data, index=0)
    except (NotImplementedError, RuntimeError) as error:
        raise ImageError(_undecodable(data, error)) from error
    return pixels


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
    if not syntax.is_compressed:
        return f"truncated or corrupt: {' '.join(str(error).split())}"
    packages = _DECODED_BY.get(syntax)
    if packages is None or _is_decodable(syntax):
        return f"cannot be decompressed ({syntax.name}): it is damaged"
    return (
        f"cannot be decompressed ({syntax.name}): no package that decodes it is installed; "
        f"run: pip install {packages}"
    )


def _is_decodable(syntax: UID) -> bool:
    """Whether a package that decodes every file of a transfer syntax is installed."""
    from pydicom.pixels import get_decoder

    plugins = set(get_decoder(syntax).available_plugins)
    # Pillow takes neither 12 bits of JPEG nor more than 8 bits of colour in JPEG 2000.
    return bool(plugins - {"pillow"})


def _hoist_frame_macros(data: Dataset) -> None:
    """Copies the first frame's rescale and window to the top level, where the functions below look for them."""
    for groups in _FUNCTIONAL_GROUPS:
        for macro in _FRAME_MACROS:
            for frame in (data.get(groups) or [])[:1]:
                for item in (frame.get(macro) or [])[:1]:
                    for element in item:
                        if element.tag not in data:
                            data.add(element)


def _drop_empty(data: Dataset) -> None:
    for keyword in _OPTIONAL:
        if keyword in data and data[keyword].is_empty:
            delattr(data, keyword)


def _has_palette(data: Dataset) -> bool:
    return bool(data.PhotometricInterpretation == "PALETTE COLOR")


def _colour(pixels: npt.NDArray[Any], data: Dataset) -> tuple[npt.NDArray[np.uint8], list[str]]:
    from pydicom.pixels.processing import apply_color_lut

    if _has_palette(data):
        bits = int(data.RedPaletteColorLookupTableDescriptor[2])
        return scaled_to_8_bit(apply_color_lut(pixels, data), 0, 2.0**bits - 1), ["palette"]
    kind = str(data.PhotometricInterpretation)
    return scaled_to_8_bit(pixels, 0, 2.0 ** int(data.BitsStored) - 1), [kind]
