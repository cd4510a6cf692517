"""Who writes into an output folder: advisory locks of the kernel, which end with the process that holds them."""

from __future__ import annotations

import fcntl
import os
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from cfcam_gpu.dataset.store.atomic_files import reason
from cfcam_gpu.errors import StoreError


class Claim:
    """The right to write the parts of index `index` out of `count`, held until the stack of `claimed` ends."""

    def __init__(self, folder: Path, index: int, count: int) -> None:
        self.folder = folder
        self.index = index
        self.count = count

    def alone(self) -> bool:
        """No other index of the folder is claimed; true until `setup` is left."""
        return not any(_is_held(path) for path in self.folder.glob("index-*") if path != self.own)

    @property
    def own(self) -> Path:
        return self.folder / f"index-{self.index}"


@contextmanager
def setup(folder: Path) -> Iterator[None]:
    """One process at a time, the others wait: claims are made and the plan is written here."""
    with ExitStack() as stack:
        _lock(stack, folder / "setup", fcntl.LOCK_EX)
        yield


def claim(stack: ExitStack, folder: Path, index: int, count: int) -> Claim:
    """Claims an index inside `setup`; given back when `stack` ends, or the process.

    Raises:
        StoreError: the index is claimed, or another number of shares is at work; nothing waits.
    """
    claimed = Claim(folder, index, count)
    out = folder.parent.parent
    for path in folder.glob("of-*"):
        other = re.fullmatch(r"of-(\d+)", path.name)
        if other and int(other[1]) != count and _is_held(path):
            raise StoreError(
                f"{out} is being written by runs that share it among {other[1]} (this one among {count}); "
                "wait for them, or choose another output folder"
            )
    if not _lock(stack, claimed.own, fcntl.LOCK_EX | fcntl.LOCK_NB):
        which = f" as index {index} of {count}" if count > 1 else ""
        raise StoreError(
            f"{out} is being written by another run{which} ({_owner(claimed.own)}); "
            "wait for it, or choose another output folder"
        )
    with suppress(OSError):  # only for the message above; a full disk is met when it matters
        claimed.own.write_text(f"process {os.getpid()} on {socket.gethostname()}")
    _lock(stack, folder / f"of-{count}", fcntl.LOCK_SH)
    return claimed


def _owner(path: Path) -> str:
    return path.read_text(errors="replace").strip()[:100] or "just started"


def _is_held(path: Path) -> bool:
    with ExitStack() as stack:
        return not _lock(stack, path, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _lock(stack: ExitStack, path: Path, kind: int) -> bool:
    """Whether the file could be locked; unlocked when `stack` ends. The file stays: removing it is a race."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise StoreError(f"cannot open the lock {path}: {reason(error)}") from error
    stack.callback(os.close, descriptor)
    try:
        fcntl.flock(descriptor, kind)
    except BlockingIOError:
        return False
    except OSError as error:
        raise StoreError(
            f"the file system of {path} has no locks ({reason(error)}); choose an output folder on another"
        ) from error
    return True
