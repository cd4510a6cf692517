"""A file or folder at a URL."""

from __future__ import annotations

import importlib
import io
import posixpath
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote

from cfcam_gpu._utils.optional import require
from cfcam_gpu._utils.places.masking import masked, revealed
from cfcam_gpu._utils.places.schemes import SCHEMES, scheme_of
from cfcam_gpu.errors import PlaceError

T = TypeVar("T")

#: Seconds without an answer after which a request is given up; it is made twice. Less than half of the time
#: that a worker may spend on an image (`RunOptions.sample_timeout`).
SILENCE = 20.0

#: Files of more bytes are not copied to this machine's disk: manifests, shards, weights.
MOST_BYTES = 64 << 30

#: Bytes that are fetched at least where a file is read in ranges.
_BUFFER = 1 << 20


@dataclass(frozen=True, slots=True)
class Place:
    """A file or folder at a URL. `str` gives the URL with its credentials masked.

    Attributes:
        url: of a scheme in `SCHEMES`; a masked one is read by what was masked in this process.

    Example:
        >>> place = Place("https://me:word@host/photos/cat.PNG?size=5")
        >>> str(place), place.name, place.suffix, place.lists
        ('https://***@host/photos/cat.PNG?size=5', 'cat.PNG', '.PNG', False)
    """

    url: str

    def __str__(self) -> str:
        return masked(self.url)

    @property
    def scheme(self) -> str:
        return scheme_of(self.url) or ""

    @property
    def lists(self) -> bool:
        """Whether folders can be listed."""
        return SCHEMES[self.scheme].lists

    @property
    def path(self) -> str:
        """The part of the URL that names a file: the bucket or host, and the path there."""
        text = self.url.partition("://")[2]
        return text if self.lists else re.split(r"[?#]", text.rpartition("@")[2])[0]

    @property
    def name(self) -> str:
        return posixpath.basename(self.path.rstrip("/"))

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    def beside(self, relative: str) -> Place:
        """The file at a path relative to this file's folder.

        Example:
            >>> Place("s3://bucket/lists/train.csv").beside("cats/1.png").url
            's3://bucket/lists/cats/1.png'
            >>> Place("https://host/train.csv?sig=0a").beside("my cat#1.png").url
            'https://host/my%20cat%231.png'
        """
        if self.lists:
            return Place(f"{self.url.rpartition('/')[0]}/{relative}")
        folder = re.split(r"[?#]", self.url)[0].rpartition("/")[0]
        return Place(f"{folder}/{quote(relative)}")

    def below(self, relative: str) -> Place:
        """The file at a path below this folder."""
        return Place(f"{self.url.rstrip('/')}/{relative}")

    def check_package(self) -> None:
        """Raises MissingPackageError if what reads this kind of URL is not installed."""
        kind = SCHEMES[self.scheme]
        if kind.module is not None:
            require(kind.module, kind.extra)

    def read(self, start: int, length: int) -> bytes:
        """So many bytes from `start`, fewer at the end of the file. Raises PlaceError, MissingPackageError."""
        content: bytes = self._ask("read", start, length)
        return content

    def size(self) -> int | None:
        """Number of bytes; None: not known. Raises PlaceError, MissingPackageError."""
        number: int | None = self._ask("size")
        return number

    def version(self) -> str | None:
        """A text that changes with the file; None: there is none. Raises PlaceError, MissingPackageError."""
        text: str | None = self._ask("version")
        return text

    def is_folder(self) -> bool:
        """Whether it is a folder, not a file. Raises PlaceError, MissingPackageError; if it is neither, too."""
        return bool(self._ask("is_folder"))

    def files(self) -> list[str]:
        """The paths below this folder of all files in it, in no order. Raises PlaceError, MissingPackageError."""
        paths: list[str] = self._ask("files")
        return paths

    def matches(self) -> list[Place]:
        """The files that this URL matches as a pattern, sorted. Raises PlaceError, MissingPackageError."""
        return [Place(url) for url in self._ask("matches")]

    def versions(self) -> dict[str, str | None]:
        """The paths below this folder of all files in it, with their versions; empty if there is no such folder.

        Raises:
            PlaceError, MissingPackageError
        """
        try:
            infos: dict[str, str | None] = self._ask("versions")
        except PlaceError as error:
            if not error.absent:
                raise
            return {}
        return infos

    def modified(self) -> float:
        """When it was written, in seconds by the server's clock. Raises PlaceError, MissingPackageError."""
        moment: float = self._ask("modified")
        return moment

    def put(self, source: Path) -> None:
        """Writes a file of this machine's disk here; nobody sees a part of it.

        Raises:
            OSError: the file on the disk cannot be read. PlaceError, MissingPackageError: it cannot be written.
        """
        source.stat()  # its absence is no PlaceError
        self._ask("put", source)

    def write(self, content: bytes) -> None:
        """Writes a small file. Raises PlaceError, MissingPackageError."""
        self._ask("write", content)

    def create(self, content: bytes) -> bool:
        """Writes a small file unless there is one, in one step; whether it did. Raises PlaceError, MissingPackageError.

        Example:
            >>> place = Place("memory://example/lock")
            >>> place.create(b"mine"), place.create(b"yours"), place.read(0, 9)
            (True, False, b'mine')
        """
        done: bool = self._ask("create", content)
        return done

    def remove(self) -> None:
        """Removes the file, if it is there. Raises PlaceError, MissingPackageError."""
        self._ask("remove")

    def open(self, _mode: str = "rb") -> BinaryIO:
        """The file, copied into a temporary file on this machine's disk that is removed when it is closed.

        Raises:
            PlaceError: it cannot be read, or has more than `MOST_BYTES`.
            OSError: the disk is full.
        """
        return _twice(self._copied)

    def open_random(self) -> BinaryIO:
        """The file, of which only what is read is fetched. Raises PlaceError, MissingPackageError."""
        size = self.size()
        if size is None:
            return self.open()
        return io.BufferedReader(_Ranges(self, size), _BUFFER)

    def _copied(self) -> BinaryIO:
        file: Any = tempfile.TemporaryFile(prefix="cfcam-")  # noqa: SIM115 - the caller closes it
        try:
            for piece in self._reader().chunks(revealed(self.url), SILENCE):
                file.write(piece)
                if file.tell() > MOST_BYTES:
                    raise PlaceError(f"more than {MOST_BYTES:,} bytes")
            file.seek(0)
        except BaseException:
            file.close()
            raise
        copied: BinaryIO = file
        return copied

    def _ask(self, question: str, *arguments: object) -> Any:
        return _twice(lambda: getattr(self._reader(), question)(revealed(self.url), *arguments, SILENCE))

    def _reader(self) -> ModuleType:
        name = "http" if self.scheme in ("http", "https") else "filesystem"
        return importlib.import_module(f"cfcam_gpu._utils.places.{name}")


class _Ranges(io.RawIOBase):
    """A file at a URL that is read in ranges."""

    def __init__(self, place: Place, size: int) -> None:
        self.place, self.size, self.position = place, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        self.position = max(0, start + offset)
        return self.position

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self.size - self.position)
        if length <= 0:
            return 0
        content = self.place.read(self.position, length)
        buffer[: len(content)] = content
        self.position += len(content)
        return len(content)


def _twice(action: Callable[[], T]) -> T:
    """The action's result; a failure that may pass is tried once more. Raises PlaceError."""
    try:
        return action()
    except PlaceError as error:
        if not error.passing:
            raise
    return action()
