"""Files that appear whole or not at all, also when the power fails."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

#: No sample is at fault when one of these is raised; every later write would fail as well.
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


@contextmanager
def whole_file(path: Path, temporary: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write, which gets its name when the block ends without an exception and its bytes are on the disk.

    Args:
        temporary: where it lies until then, on the same file system; None: beside `path`, hidden.

    Raises:
        OSError: it cannot be written. Nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary or path.parent / f".cfcam-{os.getpid()}.part"
    temporary.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: bytes, temporary: Path | None = None) -> None:
    """Writes `content` as `whole_file` does. Raises OSError."""
    with whole_file(path, temporary) as file:
        file.write(content)


def page_folder(page: Path) -> Path:
    """Where what does not fit into an HTML page lies, in folders r-VERSION."""
    return page.with_name(f"{page.stem}_files")


def remove_page_folders(page: Path, keep: Path | None = None) -> None:
    """Removes the page's folders r-VERSION but `keep`, and nothing else. Raises OSError."""
    parent = page_folder(page)
    if not parent.is_dir():
        return
    for folder in parent.iterdir():
        if folder != keep and re.fullmatch(r"r-[0-9a-f]{12}", folder.name):
            shutil.rmtree(folder)
    if not any(parent.iterdir()):
        parent.rmdir()


def sync_folder(folder: Path) -> None:
    """Makes the names given in a folder so far survive a power failure. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def reason(error: OSError) -> str:
    """What the operating system says, without the number and the file's name."""
    return error.strerror or str(error) or type(error).__name__
