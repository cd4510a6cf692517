"""The view of an image: the part that the model sees, at the model's input size. One function for each decoder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from cfcam_gpu.images.bands import read_bands
from cfcam_gpu.images.decode import decode, decoding_errors
from cfcam_gpu.images.limits import check_pixels, pillow_limit
from cfcam_gpu.images.preprocess import Preprocess
from cfcam_gpu.images.read_options import ReadOptions
from cfcam_gpu.images.scaled import Decoded, jpeg_scale, upright_size

if TYPE_CHECKING:  # worker processes do not import PyTorch
    from torch import Tensor

#: The bytes that a JPEG file begins and ends with.
_START, _END = b"\xff\xd8\xff", b"\xff\xd9"

_DEFAULT_OPTIONS = ReadOptions()


@dataclass(frozen=True)
class View:
    """The part of an image that the model sees, at the model's input size.

    Attributes:
        pixels: (H, W, channels), as `Preprocess.view` makes them; a tensor where a GPU decoded them.
        width, height: size in pixels of the original image, turned upright.
        decoding: how the pixel values were reduced to 8 bits, where there was a choice (the window of a DICOM
            image, the range of a 16-bit image), and which page or frame was read.
        warning: why the pixels are likely not what the file means; part of `decoding` too. None: no reason.
        mask: (H, W) bool, the object's pixels in the view; None where no mask was asked for.
    """

    pixels: np.ndarray | Tensor
    width: int
    height: int
    decoding: str | None = None
    warning: str | None = None
    mask: npt.NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class FileView:
    """A JPEG file that the GPU is to decode, and what its header tells.

    Attributes:
        content: the whole file.
        orientation: of EXIF, 1 to 8.
        width, height, mask: as in `View`.
    """

    content: bytes
    orientation: int
    width: int
    height: int
    mask: npt.NDArray[np.bool_] | None = None


def full_view(
    stream: BinaryIO, name: str, preprocess: Preprocess, options: ReadOptions = _DEFAULT_OPTIONS
) -> View:
    """The view of an image that is decoded at its full size. Arguments and errors as for `Decoder.read`."""
    if preprocess.channels not in (1, 3):
        bands = read_bands(stream, preprocess.channels, options.max_pixels)
        return _view(Decoded.full(bands), preprocess)
    options = replace(options, fine_gray=preprocess.channels == 1)
    return _view(decode(stream, name, options), preprocess)


def scaled_view(
    stream: BinaryIO, name: str, preprocess: Preprocess, options: ReadOptions = _DEFAULT_OPTIONS
) -> View:
    """The view of an image; a large JPEG is decoded 2, 4 or 8 times smaller.

    How much smaller, and how far the pixels may then be from those of `full_view`: see `scaled.jpeg_scale`.
    Arguments and errors as for `Decoder.read`.
    """
    if preprocess.channels not in (1, 3):
        return full_view(stream, name, preprocess, options)
    options = replace(options, fine_gray=preprocess.channels == 1)
    return _view(decode(stream, name, options, partial(jpeg_scale, preprocess)), preprocess)


def gpu_view(
    stream: BinaryIO, name: str, preprocess: Preprocess, options: ReadOptions = _DEFAULT_OPTIONS
) -> View | FileView:
    """The file, where it is a JPEG that nvJPEG decodes as Pillow does; the view of any other image.

    The CPU decodes JPEGs that are grayscale or CMYK, and files that do not end as a JPEG does: they may be
    damaged, and then Pillow tells the reason. Arguments and errors as for `Decoder.read`.
    """
    if preprocess.channels != 3:
        return full_view(stream, name, preprocess, options)
    try:
        header = _jpeg_header(stream, options.max_pixels)
    except UnidentifiedImageError:  # the CPU's decoder tells what the file is
        header = None
        stream.seek(0)
    if header is not None:
        content = stream.read()
        if content.rstrip(b"\0").endswith(_END):
            return FileView(content, *header)
        stream.seek(0)
    return full_view(stream, name, preprocess, options)


def _jpeg_header(stream: BinaryIO, max_pixels: int) -> tuple[int, int, int] | None:
    """(orientation, width, height) of a JPEG in YCbCr; None for any other file. The stream ends at its start."""
    start = stream.read(len(_START))
    stream.seek(0)
    if start != _START:
        return None
    with (
        decoding_errors(max_pixels, let_pass=UnidentifiedImageError),
        pillow_limit.at_least(max_pixels),
        Image.open(stream, formats=["JPEG"]) as image,
    ):
        assert isinstance(image, JpegImageFile)
        check_pixels(image.width, image.height, max_pixels)
        is_ycbcr = (
            image.mode == "RGB"
            and image.info.get("adobe_transform", 1) == 1
            and [component[0] for component in image.layer] != list(b"RGB")
        )
        width, height, orientation = upright_size(image)
    stream.seek(0)
    return (orientation, width, height) if is_ycbcr else None


def _view(decoded: Decoded, preprocess: Preprocess) -> View:
    full = decoded.scale == 1
    box = None if full else decoded.box(preprocess.visible_box(decoded.width, decoded.height))
    pixels = preprocess.view(decoded.image, box)
    info = decoded.image.info
    return View(pixels, decoded.width, decoded.height, info.get("cfcam"), info.get("cfcam_warning"))
