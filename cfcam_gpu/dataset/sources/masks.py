"""The masks of samples: where they are stored, and the strings that say so.

A sample's mask is "box:x0,y0,x1,y1", or the URI of an image file whose pixels other than 0 are the object.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cfcam_gpu._utils.places.place import Place
from cfcam_gpu.dataset.sources.columns import pieces_of
from cfcam_gpu.dataset.sources.sample import Sample, path_uri, split_uri
from cfcam_gpu.dataset.sources.spool import SpooledSamples
from cfcam_gpu.errors import InputError
from cfcam_gpu.images.masks import box_text, draw_box, mask_view, parse_box, read_mask
from cfcam_gpu.images.preprocess import Preprocess

_BOX = "box:"


def box_mask(text: str) -> str:
    """The mask of a sample whose object is in a box "x0,y0,x1,y1", in pixels of the upright image.

    Raises:
        ValueError: no such box; the message completes a sentence that begins with the text.

    Example:
        >>> box_mask("[10, 20, 30.5, 40]")
        'box:10,20,30.5,40'
    """
    return _BOX + box_text(parse_box(text))


def open_mask(mask: str, size: tuple[int, int], preprocess: Preprocess) -> npt.NDArray[np.bool_]:
    """(H, W) bool at the model's input size: which pixels of its view belong to the object.

    Args:
        mask: as in `Sample.mask`.
        size: (width, height) of the upright image.

    Raises:
        MaskError: the mask cannot be read, does not fit the image, or marks no pixel.

    Example:
        >>> squash = Preprocess((1, 2), mean=(0, 0, 0), std=(1, 1, 1))
        >>> open_mask("box:0,0,2,3", (4, 3), squash).tolist()
        [[True, False]]
    """
    if mask.startswith(_BOX):
        pixels = draw_box(parse_box(mask.removeprefix(_BOX)), size)
    else:
        scheme, (path,) = split_uri(mask)
        pixels = read_mask(Place(path) if scheme == "url" else Path(path), size)
    return mask_view(pixels, preprocess)


def with_masks(samples: Iterable[Sample], folder: Path) -> SpooledSamples:
    """The samples, each with the mask `folder`/NAME.png where that file exists.

    NAME is the sample's name: the relative path of its image, without extension.

    Raises:
        InputError: the folder does not exist, or a sample has a mask in its manifest as well.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "cat.png").touch()
        >>> samples = [Sample("cat.jpg", "/photos/cat.jpg", name="cat"), Sample("dog.jpg", "/dog.jpg", name="dog")]
        >>> [sample.mask is not None for sample in with_masks(samples, folder)]
        [True, False]
    """
    if not folder.is_dir():
        raise InputError(f"the folder of masks {str(folder)!r} does not exist")
    root = str(folder.absolute())
    # A `Path` would keep each of its parts in the interpreter's table of names.
    return SpooledSamples(_with_mask(sample, os.path.join(root, f"{sample.name}.png")) for sample in samples)


def _with_mask(sample: Sample, path: str) -> Sample:
    if not _is_file(path):
        return sample
    if sample.mask is not None:
        raise InputError(
            f"sample {sample.sample_id!r} has a mask in the manifest and in the folder of masks; leave out one"
        )
    return replace(sample, mask=path_uri(path))


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def check_masks(samples: Iterable[Sample]) -> None:
    """Raises InputError for the first sample whose manifest gives a mask or box with a mistake.

    Example:
        >>> check_masks([Sample("cat.jpg", "/photos/cat.jpg", mask="broken:list.csv, line 2#the box is empty")])
        Traceback (most recent call last):
        cfcam_gpu.errors.InputError: list.csv, line 2: the box is empty
    """
    for piece in pieces_of(samples, "mask"):
        for mask in piece["mask"]:
            if mask is not None and mask.startswith("broken:"):
                _, (where, reason) = split_uri(mask)
                raise InputError(f"{where}: {reason}")
