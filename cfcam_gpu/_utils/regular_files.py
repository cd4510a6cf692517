"""Files that may be opened: opening a pipe waits until somebody writes into it."""

from __future__ import annotations

import errno
from pathlib import Path


def refuse_special(path: Path) -> None:
    """Raises OSError for a pipe, a socket or a device; not for a folder, nor where there is nothing.

    Example:
        >>> refuse_special(Path("/dev/null"))
        Traceback (most recent call last):
        OSError: [Errno 22] not a regular file
        >>> refuse_special(Path("/no/such/file"))
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "not a regular file")
