"""What an output folder on this machine's disk tells of its finished files, so that they can go elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path


class Mirror:
    """Is told which files of an output folder are finished. This one does nothing with them.

    Args:
        name: the output folder in messages, where it is not the folder's path.

    Example:
        >>> from cfcam_gpu.dataset.store.store import Store
        >>> Store(Path("staging"), Mirror("s3://bucket/maps")).name
        's3://bucket/maps'
    """

    def __init__(self, name: str | None = None) -> None:
        self.name = name

    def written(self, *paths: Path) -> None:
        """These files are finished, and those told of before are to be seen before them. Raises StoreError."""

    def pictures(self, paths: Iterable[Path]) -> None:
        """As `written`, for pictures, which the run does not read again; those that are gone were seen before."""

    def lacks(self, _path: Path) -> bool:
        """Whether `written` is to be called for a file that an earlier run finished."""
        return False

    def wait(self) -> None:
        """Waits until all that was told is done. Raises StoreError."""

    def check(self) -> None:
        """Raises StoreError if something that was told cannot be done."""

    def wiping(self) -> AbstractContextManager[object]:
        """Inside its block the files of the run are removed (see `Store.wipe`)."""
        return nullcontext()
