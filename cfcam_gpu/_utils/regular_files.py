"""Files that may be opened: opening a pipe waits until somebody writes into it."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def refuse_special(path: Path) -> None:
    """Raises OSError for a pipe, a socket or a device; not for a folder, nor where there is nothing to be seen.

    Example:
        >>> refuse_special(Path("/dev/null"))
        Traceback (most recent call last):
        OSError: [Errno 22] not a regular file
        >>> refuse_special(Path("/no/such/file"))
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # opening it will tell why
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "not a regular file")
