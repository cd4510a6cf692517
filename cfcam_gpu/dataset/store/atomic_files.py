"""Files that are written completely or not at all, also when the power fails."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

#: Error numbers of a full or read-only disk: every later write would fail as well, whatever the sample.
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


@contextmanager
def atomic_file(path: Path, temporary: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write. It gets its name when the block ends without an exception and its bytes are on the disk.

    Args:
        path: its final name; missing folders above it are made.
        temporary: its name until then, in a folder of the same file system, which is not made here: a run that
            ends removes it while processes still write. None: a hidden file beside `path`.

    Raises:
        OSError: it cannot be written. Nothing is left behind.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "sums.txt"
        >>> with atomic_file(path) as file:
        ...     _ = file.write(b"1 + 1 = 2")
        ...     path.exists()
        False
        >>> path.read_text()
        '1 + 1 = 2'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary or path.parent / f".cfcam-{os.getpid()}.part"
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: bytes, temporary: Path | None = None) -> None:
    """Writes `content` into an `atomic_file`.

    Raises:
        OSError: it cannot be written. Nothing is left behind.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "deep" / "greeting"
        >>> write_atomically(path, b"hello")
        >>> path.read_bytes()
        b'hello'
    """
    with atomic_file(path, temporary) as file:
        file.write(content)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A new folder to fill, which is renamed to `path` when the block ends without an exception.

    Raises:
        OSError: it cannot be made, or `path` is there. Nothing is left behind.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "sums"
        >>> with atomic_folder(path) as folder:
        ...     _ = (folder / "one.txt").write_text("1 + 1 = 2")
        ...     path.exists()
        False
        >>> [file.name for file in path.iterdir()]
        ['one.txt']
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".cfcam-{os.getpid()}-{path.name}"[:200]
    temporary.mkdir()
    try:
        yield temporary
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def page_folder(page: Path) -> Path:
    """The folder beside an HTML page that holds what does not fit into it, in subfolders r-VERSION.

    Example:
        >>> page_folder(Path("out/report.html")).name
        'report_files'
    """
    return page.with_name(f"{page.stem}_files")


def remove_page_folders(page: Path, keep: Path | None = None) -> None:
    """Removes the page's subfolders r-VERSION except `keep`, and nothing else.

    Raises:
        OSError: one cannot be removed.
    """
    parent = page_folder(page)
    if not parent.is_dir():
        return
    for folder in parent.iterdir():
        if folder != keep and re.fullmatch(r"r-[0-9a-f]{12}", folder.name):
            shutil.rmtree(folder)
    if not any(parent.iterdir()):
        parent.rmdir()


def sync_folder(folder: Path) -> None:
    """Makes the names of the files in a folder survive a power failure.

    Raises:
        OSError: the folder cannot be opened or written.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def os_reason(error: OSError) -> str:
    """What the operating system says about an error, without its number and the file's name.

    Example:
        >>> os_reason(FileNotFoundError(2, "No such file or directory", "photo.jpg"))
        'No such file or directory'
    """
    return error.strerror or str(error) or type(error).__name__
