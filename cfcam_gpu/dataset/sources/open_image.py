"""Opening the image of a sample by its URI."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from cfcam_gpu.dataset.sources.huggingface import read_cell
from cfcam_gpu.dataset.sources.sample import split_uri
from cfcam_gpu.dataset.sources.webdataset import read_member
from cfcam_gpu.errors import ImageError
from cfcam_gpu.images.decode import MAX_PIXELS, load_image, load_image_bytes


def open_image(uri: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image that a URI names: RGB, 8 bits a channel, upright; its `info` is that of `load_image`.

    It needs nothing but the URI and no PyTorch, so any process can do it.

    Args:
        uri: as in `Sample.uri`.
        max_pixels: an image of more pixels is refused before it is decoded.

    Raises:
        ImageError: the image cannot be read or decoded. The message is the reason, without the URI.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "red.png"
        >>> Image.new("RGB", (4, 3), "red").save(path)
        >>> open_image(str(path)).size
        (4, 3)
    """
    try:
        scheme, parts = split_uri(uri)
    except ValueError as error:
        raise ImageError(f"not a URI of this program: {error}") from error
    if scheme == "broken":
        raise ImageError(parts[1])
    return _OPENERS[scheme](parts, max_pixels)


def _open_file(parts: list[str], max_pixels: int) -> Image.Image:
    return load_image(Path(parts[0]), max_pixels)


def _open_member(parts: list[str], max_pixels: int) -> Image.Image:
    content, name = read_member(*parts)
    return load_image_bytes(content, name, max_pixels)


def _open_cell(parts: list[str], max_pixels: int) -> Image.Image:
    return load_image_bytes(read_cell(*parts), max_pixels=max_pixels)


#: Scheme of a URI -> the function that opens the image, given the URI's parts and the limit of pixels.
_OPENERS: dict[str, Callable[[list[str], int], Image.Image]] = {
    "file": _open_file,
    "tar": _open_member,
    "hf": _open_cell,
}
