"""Images as the bytes of PNG, JPEG and WebP files."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from cfcam_gpu.errors import ImageError


class ImageFormat(NamedTuple):
    """A format's file name extension, and OpenCV's parameters for writing it."""

    extension: str
    parameters: tuple[int, ...] = ()


IMAGE_FORMATS: dict[str, ImageFormat] = {
    "png": ImageFormat(".png"),
    "jpeg": ImageFormat(".jpg", (cv2.IMWRITE_JPEG_QUALITY, 90)),
    "webp": ImageFormat(".webp", (cv2.IMWRITE_WEBP_QUALITY, 85)),
}


def encode_image(pixels: np.ndarray, kind: str) -> bytes:
    """An image as the bytes of a file.

    Args:
        pixels: (H, W, 3) uint8 RGB, or (H, W) uint8 or uint16 gray.
        kind: a key of `IMAGE_FORMATS`.

    Raises:
        ImageError: the format cannot hold an image of this size.

    Example:
        >>> encode_image(np.zeros((2, 3, 3), np.uint8), "png")[:4]
        b'\\x89PNG'
    """
    extension, parameters = IMAGE_FORMATS[kind]
    channels_as_opencv = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    try:
        encoded, content = cv2.imencode(extension, channels_as_opencv, parameters)
    except cv2.error:  # releases of OpenCV differ: some raise, some return False
        encoded, content = False, None
    if not encoded or content is None:
        h, w = pixels.shape[:2]
        raise ImageError(f"{kind} cannot hold {w} by {h} pixels; use png")
    return content.tobytes()
