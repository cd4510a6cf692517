"""Which process may write into an output folder: advisory file locks, which end with the process that holds them.

The process of rank r takes the parts k with k % world_size == r. The lock files keep the names
`index-N` (of a rank) and `of-N` (of a world size) that earlier versions of the package gave them.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from cfcam_gpu.dataset.store.atomic_files import os_reason
from cfcam_gpu.errors import StoreError


class Claim:
    """The right to write the parts of one rank, held until the stack given to `claim` is closed.

    Attributes:
        folder: folder of the locks.
        rank, world_size: which process this is among how many.
    """

    def __init__(self, folder: Path, rank: int, world_size: int) -> None:
        self.folder = folder
        self.rank = rank
        self.world_size = world_size

    def is_alone(self) -> bool:
        """Whether no other rank is claimed. The answer holds until the caller leaves `setup_lock`."""
        return not any(_is_held(path) for path in self.folder.glob("index-*") if path != self.lock_file)

    @property
    def lock_file(self) -> Path:
        return self.folder / f"index-{self.rank}"


@contextmanager
def setup_lock(folder: Path) -> Iterator[None]:
    """Held by one process at a time while it claims a rank and writes the plan; others wait for it.

    Args:
        folder: folder of the locks.

    Raises:
        StoreError: the lock file cannot be opened, or the file system has no locks.
    """
    with ExitStack() as stack:
        _lock(stack, folder / "setup", fcntl.LOCK_EX)
        yield


def claim(stack: ExitStack, folder: Path, rank: int, world_size: int, name: str | None = None) -> Claim:
    """Claims a rank, to be called inside `setup_lock`. The claim ends with `stack`, or with the process.

    Args:
        folder: folder of the locks, two levels below the output folder.
        name: the output folder in messages; None: its path.

    Raises:
        StoreError: another process has claimed this rank, or processes of another world size are
            writing. It does not wait for them.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()) / ".cfcam" / "locks"
        >>> with ExitStack() as stack, setup_lock(folder):
        ...     first = claim(stack, folder, rank=0, world_size=2)
        ...     alone = first.is_alone()
        ...     second = claim(stack, folder, rank=1, world_size=2)
        ...     alone, first.is_alone()
        (True, False)
    """
    claimed = Claim(folder, rank, world_size)
    out = name or folder.parent.parent
    for path in folder.glob("of-*"):
        other = re.fullmatch(r"of-(\d+)", path.name)
        if other and int(other[1]) != world_size and _is_held(path):
            raise StoreError(
                f"{out} is being written by runs with world size {other[1]}, this one has {world_size}; "
                "wait for them, or choose another output folder"
            )
    if not _lock(stack, claimed.lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB):
        which = f" as rank {rank} of {world_size}" if world_size > 1 else ""
        raise StoreError(
            f"{out} is being written by another run{which} ({_owner(claimed.lock_file)}); "
            "wait for it, or choose another output folder"
        )
    with suppress(OSError):  # only for the message above; a full disk is reported by the first real write
        claimed.lock_file.write_text(f"process {os.getpid()} on {socket.gethostname()}")
    _lock(stack, folder / f"of-{world_size}", fcntl.LOCK_SH)
    return claimed


def _owner(path: Path) -> str:
    return path.read_text(errors="replace").strip()[:100] or "just started"


def _is_held(path: Path) -> bool:
    with ExitStack() as stack:
        return not _lock(stack, path, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _lock(stack: ExitStack, path: Path, kind: int) -> bool:
    """Locks a file until `stack` ends; False where another process holds the lock.

    The file is never removed: another process could open it just before and then lock a file without a name.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise StoreError(f"cannot open the lock {path}: {os_reason(error)}") from error
    stack.callback(os.close, descriptor)
    try:
        fcntl.flock(descriptor, kind)
    except BlockingIOError:
        return False
    except OSError as error:
        raise StoreError(
            f"the file system of {path} has no locks ({os_reason(error)}); choose an output folder on another"
        ) from error
    return True
