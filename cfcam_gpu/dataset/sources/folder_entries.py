"""The entries of a folder in sorted order, in little memory however many it has."""

from __future__ import annotations

import heapq
import os
import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, NamedTuple

from cfcam_gpu.dataset.sources.spool import temporary_file_errors
from cfcam_gpu.errors import InputError

#: Entries that are sorted in memory; a folder with more is sorted on the disk.
_IN_MEMORY = 65_536

#: Bytes of each sorted run that are read at a time.
_WINDOW = 1 << 14

_FILE, _FOLDER, _LINK = "fdl"


class UnreadableFolder(InputError):
    """A folder cannot be read."""


class Entry(NamedTuple):
    """A file, folder or symbolic link in a folder."""

    name: str
    kind: str

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link."""
        return self.kind == _LINK

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder, and no link to one."""
        return self.kind == _FOLDER


def sorted_entries(folder: Path) -> Iterator[Entry]:
    """The entries of a folder that are not hidden, sorted by name. The folder is read before this returns.

    Raises:
        UnreadableFolder: the folder cannot be read.
        InputError: its names cannot be written into a temporary file.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "b.png").touch(), (folder / "a").mkdir()
        (None, None)
        >>> [(entry.name, entry.is_folder) for entry in sorted_entries(folder)]
        [('a', True), ('b.png', False)]
    """
    try:
        with os.scandir(folder) as entries:
            texts = (f"{entry.name}\0{_kind(entry)}" for entry in entries if not entry.name.startswith("."))
            ordered = _sorted(texts)
    except OSError as error:
        raise UnreadableFolder(f"folder {str(folder)!r} cannot be read: {error.strerror}") from error
    return (Entry(*text.split("\0")) for text in ordered)


def _kind(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        return _LINK
    return _FOLDER if entry.is_dir() else _FILE


def _sorted(texts: Iterator[str]) -> Iterator[str]:
    """The texts in order. The null character sorts before all others, so that entries are sorted by their names."""
    some = sorted(islice(texts, _IN_MEMORY))
    if len(some) < _IN_MEMORY:
        return iter(some)
    with temporary_file_errors("written"):
        file = tempfile.TemporaryFile(prefix="cfcam-")  # noqa: SIM115
    spans = []
    while some:
        spans.append(_write(file, some))
        some = sorted(islice(texts, _IN_MEMORY))
    return heapq.merge(*(_read(file, *span) for span in spans))


def _write(file: IO[bytes], texts: Iterable[str]) -> tuple[int, int]:
    """Appends texts to a file, each with a slash behind it, which no name has. Returns where they begin and end."""
    start = file.tell()
    with temporary_file_errors("written"):
        file.write(b"".join(text.encode("utf-8", "surrogateescape") + b"/" for text in texts))
        file.flush()
    return start, file.tell()


def _read(file: IO[bytes], start: int, stop: int) -> Iterator[str]:
    rest = b""
    while start < stop:
        window = os.pread(file.fileno(), min(_WINDOW, stop - start), start)
        start += len(window)
        *texts, rest = (rest + window).split(b"/")
        yield from (text.decode("utf-8", "surrogateescape") for text in texts)
