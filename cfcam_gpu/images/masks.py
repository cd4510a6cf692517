"""Masks of the objects in images: where they are found, and how they come to what the model sees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from cfcam_gpu.dataset.sources.sample import Sample, path_uri, split_uri
from cfcam_gpu.errors import ImageError, InputError
from cfcam_gpu.images.preprocess import Preprocess

_BOX = "box:"


class MaskError(ImageError):
    """A mask that cannot be read or does not fit its image; the message is the reason."""


def with_masks(samples: Sequence[Sample], folder: Path) -> list[Sample]:
    """The samples, those with a mask `folder`/NAME.png with it; NAME is the sample's, its path without extension.

    Raises:
        InputError: the folder does not exist, or a sample has another mask from its manifest.
    """
    if not folder.is_dir():
        raise InputError(f"the folder of masks {str(folder)!r} does not exist")
    return [_with_mask(sample, (folder / f"{sample.name}.png").absolute()) for sample in samples]


def _with_mask(sample: Sample, path: Path) -> Sample:
    if not path.is_file():
        return sample
    if sample.mask is not None:
        raise InputError(
            f"sample {sample.sample_id!r} has a mask in the manifest and in the folder of masks; leave out one"
        )
    return replace(sample, mask=path_uri(str(path)))


def check_masks(samples: Sequence[Sample]) -> None:
    """Raises InputError for the first mask that its manifest gives wrongly."""
    for sample in samples:
        if sample.mask is not None and sample.mask.startswith("broken:"):
            _, (where, reason) = split_uri(sample.mask)
            raise InputError(f"{where}: {reason}")


def box_mask(text: str) -> str:
    """The mask of a sample whose object is in a box "x0,y0,x1,y1", in pixels of the upright image.

    Raises:
        ValueError: not such a box; the message goes on after the text.
    """
    corners = _corners(text)
    if corners is None or not (corners[0] < corners[2] and corners[1] < corners[3]):
        raise ValueError("must be x0,y0,x1,y1 in pixels with x0 < x1 and y0 < y1")
    return _BOX + ",".join(f"{corner:.10g}" for corner in corners)


def _corners(text: str) -> tuple[float, float, float, float] | None:
    try:
        x0, y0, x1, y1 = (float(part) for part in text.strip("[]() ").split(","))
    except ValueError:
        return None
    return (x0, y0, x1, y1) if all(map(math.isfinite, (x0, y0, x1, y1))) else None


def read_mask(mask: str, size: tuple[int, int], preprocess: Preprocess) -> npt.NDArray[np.bool_]:
    """(H,W) bool: the object's pixels in the model's view of an image, cropped and resized as it is (nearest).

    Args:
        mask: as `Sample.mask` holds it: the path of an image whose pixels other than 0 are the object, or a box.
        size: (width, height) of the upright image, which the mask must have as well.

    Raises:
        MaskError: the mask cannot be read, has another size or is empty.
    """
    box = _corners(mask.removeprefix(_BOX)) if mask.startswith(_BOX) else None
    pixels = _drawn(box, size) if box else _decoded(mask, size)
    if not pixels.any():
        what = f"the box {mask.removeprefix(_BOX)} lies outside of" if box else "the mask marks nothing of"
        raise MaskError(f"{what} the image of {size[0]} by {size[1]} pixels")
    height, width = preprocess.size
    picture = Image.fromarray(pixels.astype(np.uint8))
    view = picture.resize((width, height), Image.Resampling.NEAREST, preprocess.visible_box(*size))
    return np.asarray(view) > 0


def _drawn(box: tuple[float, float, float, float], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """A pixel belongs to a box that holds its centre."""
    x, y = (np.arange(side) + 0.5 for side in size)
    x0, y0, x1, y1 = box
    inside: npt.NDArray[np.bool_] = ((y >= y0) & (y < y1))[:, None] & ((x >= x0) & (x < x1))
    return inside


def _decoded(mask: str, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    _, (path,) = split_uri(mask)
    try:
        with Image.open(path) as picture:
            if picture.size != size:  # before its pixels are decoded, so that their number is bounded
                raise MaskError(
                    f"the mask {path} has {picture.size[0]} by {picture.size[1]} pixels, its image {size[0]} by "
                    f"{size[1]}; masks must have the size of the upright image"
                )
            opaque = picture.convert(picture.mode.removesuffix("A")) if picture.mode in _ALPHA else picture
            values = np.asarray(opaque)
    except MaskError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise MaskError(f"the mask {path} cannot be read: {reason}") from error
    return values != 0 if values.ndim == 2 else (values != 0).any(2)


#: Modes whose last channel is no colour.
_ALPHA = ("LA", "RGBA")
