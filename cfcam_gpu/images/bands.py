"""Images as the bands that their file holds, for models of neither one nor three channels."""

from __future__ import annotations

from typing import BinaryIO

from PIL import Image, ImageOps

from cfcam_gpu.errors import ImageError
from cfcam_gpu.images.decode import decoding_errors, image_formats
from cfcam_gpu.images.limits import MAX_PIXELS, check_pixels, pillow_limit


def read_bands(stream: BinaryIO, count: int, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image in an opened file, upright, with the bands that the file holds: nothing is composited.

    Args:
        stream: the file, at its start.
        count: how many bands it must have.
        max_pixels: the most pixels the image may have.

    Raises:
        ImageError: another number of bands, more than 8 bits a band, or as `load_image`.

    Example:
        >>> import io
        >>> file = io.BytesIO()
        >>> Image.new("RGBA", (3, 2), (10, 20, 30, 0)).save(file, "png")
        >>> read_bands(file, 4).getpixel((0, 0))
        (10, 20, 30, 0)
    """
    stream.seek(0)
    with (
        decoding_errors(max_pixels),
        pillow_limit.at_least(max_pixels),
        Image.open(stream, formats=image_formats()) as image,
    ):
        check_pixels(image.width, image.height, max_pixels)
        bands = image.getbands()
        if len(bands) != count:
            raise ImageError(
                f"the image has {len(bands)} channels ({image.mode}), the model takes {count}; give files of "
                f"{count} bands, such as TIFF"
            )
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        image.info = {}
        return image
