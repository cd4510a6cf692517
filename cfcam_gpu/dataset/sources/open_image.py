"""Opening the image of a sample by its URI."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from cfcam_gpu._utils.places.place import Place
from cfcam_gpu.dataset.sources.hub_parquet import read_parquet_cell
from cfcam_gpu.dataset.sources.huggingface import read_cell
from cfcam_gpu.dataset.sources.objects import open_item
from cfcam_gpu.dataset.sources.sample import split_uri
from cfcam_gpu.dataset.sources.webdataset import read_member
from cfcam_gpu.errors import ImageError
from cfcam_gpu.images.decode import MAX_PIXELS, decode, open_file, read_options


def open_image(uri: str, max_pixels: int = MAX_PIXELS, value_range: str | None = None) -> Image.Image:
    """The image that a URI names: RGB, 8 bits a channel, upright; its `info` is that of `load_image`.

    It needs nothing but the URI and no PyTorch, so any process can do it; of an `object:` URI only
    the one that was given the object.

    Args:
        uri: as in `Sample.uri`.
        max_pixels: an image of more pixels is refused before it is decoded.
        value_range: as for `load_image`.

    Raises:
        ImageError: the image cannot be read or decoded. The message is the reason, without the URI.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "red.png"
        >>> Image.new("RGB", (4, 3), "red").save(path)
        >>> open_image(str(path)).size
        (4, 3)
    """
    with open_stream(uri) as (stream, name):
        return decode(stream, name, read_options(max_pixels, value_range)).image


@contextmanager
def open_stream(uri: str) -> Iterator[tuple[BinaryIO, str]]:
    """The image file that a URI names, opened for reading, and its name ("" where it has none).

    Raises:
        ImageError: it cannot be read, or is empty.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "red.png"
        >>> Image.new("RGB", (4, 3), "red").save(path)
        >>> with open_stream(str(path)) as (stream, name):
        ...     name, stream.read(4)
        ('red.png', b'\\x89PNG')
    """
    try:
        scheme, parts = split_uri(uri)
    except ValueError as error:
        raise ImageError(f"not a URI of this program: {error}") from error
    if scheme == "broken":
        raise ImageError(parts[1])
    with _OPENERS[scheme](parts) as opened:
        yield opened


@contextmanager
def _open_file(parts: list[str]) -> Iterator[tuple[BinaryIO, str]]:
    path = Path(parts[0])
    with open_file(path) as stream:
        yield stream, path.name


@contextmanager
def _open_url(parts: list[str]) -> Iterator[tuple[BinaryIO, str]]:
    place = Place(parts[0])
    with open_file(place) as stream:
        yield stream, place.name


@contextmanager
def _open_member(parts: list[str]) -> Iterator[tuple[BinaryIO, str]]:
    content, name = read_member(*parts)
    yield _as_stream(content), name


@contextmanager
def _open_cell(parts: list[str]) -> Iterator[tuple[BinaryIO, str]]:
    yield _as_stream(read_cell(*parts)), ""


@contextmanager
def _open_parquet_cell(parts: list[str]) -> Iterator[tuple[BinaryIO, str]]:
    yield _as_stream(read_parquet_cell(*parts)), ""


@contextmanager
def _open_item(parts: list[str]) -> Iterator[tuple[BinaryIO, str]]:
    yield open_item(*parts), ""


def _as_stream(content: bytes) -> BinaryIO:
    if not content:
        raise ImageError("empty file")
    return io.BytesIO(content)


#: Scheme of a URI -> the function that opens the file, given the URI's parts.
_OPENERS: dict[str, Callable[[list[str]], AbstractContextManager[tuple[BinaryIO, str]]]] = {
    "file": _open_file,
    "url": _open_url,
    "tar": _open_member,
    "hf": _open_cell,
    "parquet": _open_parquet_cell,
    "object": _open_item,
}
