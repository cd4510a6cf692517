"""JPEG frames of DICOM files that hold YCbCr although the file calls them RGB."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

#: JPEG baseline and extended.
_SYNTAXES = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")


def holds_ycbcr(data: Dataset) -> bool:
    """Whether a file of colour called RGB has JPEG frames in YCbCr, as the frame itself says.

    A JPEG frame says it by its Adobe marker, else by its JFIF marker, the names of its components or a colour that is
    stored at a lower resolution, which makes no sense for RGB.
    """
    syntax = str(data.file_meta.TransferSyntaxUID)
    if syntax not in _SYNTAXES or data.get("SamplesPerPixel") != 3 or data.PhotometricInterpretation != "RGB":
        return False
    from pydicom.encaps import get_frame

    frame = get_frame(data.PixelData, 0, number_of_frames=int(data.get("NumberOfFrames") or 1))
    with Image.open(io.BytesIO(frame), formats=["JPEG"]) as image:
        assert isinstance(image, JpegImageFile)
        transform = image.info.get("adobe_transform")
        if transform is not None:
            return bool(transform == 1)
        names = [component[0] for component in image.layer]
        subsampled = any(component[1:3] != image.layer[0][1:3] for component in image.layer)
        return names != list(b"RGB") and ("jfif" in image.info or subsampled)
