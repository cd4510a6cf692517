"""Decoding large JPEGs smaller: libjpeg leaves out the detail that the model's view does not show.

A JPEG stores blocks of 8×8 pixels as frequencies. From the lowest of them, libjpeg computes blocks of 4×4, 2×2
or 1×1 pixels, so that the image comes out 2, 4 or 8 times smaller and resizing it to the view takes less time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from cfcam_gpu.images.preprocess import Preprocess

#: (left, top, right, bottom) in pixels; fractions are allowed.
Box = tuple[float, float, float, float]

#: The scales that libjpeg and Pillow have in common.
_SCALES = (8, 4, 2, 1)

#: A JPEG is decoded so that what the model sees of it is still this many times larger than the view, in both
#: directions. 1.7 rather than 2 allows a quarter of 2048×1536 pixels for a view of 224×224.
LEAST_GAP = 1.7

#: How far the pixels of a view may be from those of the full decode, in levels of 0 to 255: on average, and at most.
MEAN_TOLERANCE, LARGEST_TOLERANCE = 1.5, 32

_ORIENTATION = 0x0112

#: EXIF orientation -> what turns the pixels upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

#: EXIF orientations whose upright image is mirrored left to right, or top to bottom.
_MIRRORED_X, _MIRRORED_Y = (2, 3, 6, 7), (3, 4, 7, 8)


class _Layout(NamedTuple):
    """The fields of `Decoded` but the image."""

    width: int
    height: int
    scale: int
    left: float
    top: float


@dataclass(frozen=True)
class Decoded:
    """An image that was decoded at its full size or smaller, upright.

    Attributes:
        image: RGB.
        width, height: size in pixels of the original image, upright.
        scale: how many times larger the original is: 1, 2, 4 or 8.
        left, top: where the original's upper left corner lies in `image`, in its pixels: above 0 where the
            first row or column of `image` covers less of the original than the others.
    """

    image: Image.Image
    width: int
    height: int
    scale: int = 1
    left: float = 0.0
    top: float = 0.0

    @classmethod
    def full(cls, image: Image.Image) -> Decoded:
        """An image of full size."""
        return cls(image, *image.size)

    def box(self, original: Box) -> Box:
        """A box of the original image, in the pixels of `image`.

        Example:
            >>> Decoded(Image.new("RGB", (50, 25)), 200, 100, scale=4).box((8, 4, 100, 50))
            (2.0, 1.0, 25.0, 12.5)
        """
        if self.scale == 1:
            return original
        x0, y0, x1, y1 = (edge / self.scale for edge in original)
        # Rounding must not carry the box over the edge of the image, which Pillow refuses.
        right, bottom = min(x1 + self.left, self.image.width), min(y1 + self.top, self.image.height)
        return x0 + self.left, y0 + self.top, right, bottom


def jpeg_scale(preprocess: Preprocess, width: int, height: int) -> int:
    """How many times smaller a JPEG may be decoded for a model's view: 1, 2, 4 or 8.

    At that size the visible part is at least `LEAST_GAP` times as wide and as high as the view. Pixels of the view
    then differ from those of the full decode by at most `LARGEST_TOLERANCE` levels of 255, and by at most
    `MEAN_TOLERANCE` on average; where the scale is 1, they are the same. An interpolation that takes single
    pixels (nearest) always has scale 1.

    Args:
        preprocess: what makes the view.
        width, height: size in pixels of the upright original.

    Example:
        >>> squash = Preprocess((224, 224), mean=(0, 0, 0), std=(1, 1, 1))
        >>> [jpeg_scale(squash, width, width * 3 // 4) for width in (500, 1024, 2048, 4096)]
        [1, 2, 4, 8]
    """
    if preprocess.interpolation == "nearest":
        return 1
    left, top, right, bottom = preprocess.visible_box(width, height)
    view_height, view_width = preprocess.size
    gap = min((right - left) / view_width, (bottom - top) / view_height)
    return next((scale for scale in _SCALES if gap / scale >= LEAST_GAP), 1)


def exif_orientation(image: Image.Image) -> int:
    """The EXIF orientation of an opened image, 1 to 8; 1 where there is none, or EXIF that cannot be parsed."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # the parser raises nearly anything on damaged EXIF, which does not concern the pixels
        return 1
    return orientation if orientation in range(1, 9) else 1


def turned_upright(pixels: Image.Image, orientation: int) -> Image.Image:
    """Pixels as they are stored, turned upright by their EXIF orientation.

    Example:
        >>> turned_upright(Image.new("RGB", (3, 2)), 6).size
        (2, 3)
    """
    turn = _TURNS.get(orientation)
    return pixels if turn is None else pixels.transpose(turn)


def upright_size(image: Image.Image) -> tuple[int, int, int]:
    """(width, height, EXIF orientation) of an opened image once it is turned upright."""
    orientation = exif_orientation(image)
    width, height = image.size
    return (height, width, orientation) if orientation in (5, 6, 7, 8) else (width, height, orientation)


def reduce_jpeg(image: Image.Image, scale: Callable[[int, int], int]) -> _Layout | None:
    """Has a JPEG that is not loaded yet decoded smaller when it is loaded.

    Args:
        scale: as in `decode.decode`.

    Returns:
        The fields of `Decoded`; None for an image that will have its full size.
    """
    if not isinstance(image, JpegImageFile):
        return None
    width, height, orientation = upright_size(image)
    wanted = scale(width, height)
    if wanted == 1:
        return None
    full_width, full_height = image.size
    drafted = image.draft(None, (full_width // wanted, full_height // wanted))
    if drafted is None:
        return None
    _, (_, _, right, bottom) = drafted
    # What the last column and row of the file's image have beyond the original.
    beyond_x, beyond_y = image.width - right, image.height - bottom
    if orientation in (5, 6, 7, 8):
        beyond_x, beyond_y = beyond_y, beyond_x
    return _Layout(
        width,
        height,
        round(full_width / right),
        beyond_x if orientation in _MIRRORED_X else 0.0,
        beyond_y if orientation in _MIRRORED_Y else 0.0,
    )
