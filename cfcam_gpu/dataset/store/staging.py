"""The folder of this machine in which a run at a URL works, and what of it is at the URL already.

CACHE/runs/HASH/NAME/             the output folder, as a run on a disk has it
CACHE/runs/HASH/synchronised      one line for each file that is the same at the URL: its size and time here, its
                                  version there
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from cfcam_gpu._utils.places.cache import cache_folder, copy_to_disk, plain_name
from cfcam_gpu._utils.places.place import Place
from cfcam_gpu.dataset.store.atomic_files import os_reason, write_atomically
from cfcam_gpu.dataset.store.locks import claim, setup_lock
from cfcam_gpu.dataset.store.store import REMEDY
from cfcam_gpu.errors import PlaceError, StoreError

#: Requests at the same time.
AT_ONCE = 8

#: The files by which runs are told apart: whoever has others has another run.
MARKERS = ("run.json", "evaluation.json")

#: Bytes of such a file that are read.
_MOST_BYTES = 64 << 20

PLAN = "plan.parquet"

#: Folder -> names of the files in it that a run reads again.
_READ_AGAIN = {"shards": r"part-\d{5,}\.parquet", "cost": r"share-\d+\.json"}


class Staging:
    """The files of this machine for an output folder at a URL.

    Attributes:
        place: the output folder.
        folder: the same on this machine.
        wiping: a file that is there while the run is removed, and after an end in the middle of that: empty files
            are in the folder then.
        record: what is the same on both sides.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        digest = hashlib.sha256(place.url.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        self.root = cache_folder() / "runs" / digest
        self.folder = self.root / (plain_name(place.name) or "run")
        self.wiping = self.root / "wiping"
        self.record = Record(self.root / "synchronised")

    def claim(self, stack: ExitStack) -> None:
        """Keeps other runs of this machine out until `stack` ends. Raises StoreError."""
        with setup_lock(self._locks):
            claim(stack, self._locks, 0, 1, str(self.place))
            self._load()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """For whoever only fetches results. Raises StoreError while a run of this machine writes."""
        with setup_lock(self._locks), ExitStack() as stack:
            claim(stack, self._locks, 0, 1, str(self.place))
            self._load()
            yield

    def identity(self) -> str:
        """A text that no other staging folder has. Raises StoreError."""
        path = self.root / "identity"
        with self.written(path):
            if not path.exists():
                write_atomically(path, uuid.uuid4().hex.encode())
            return path.read_text()

    def name_of(self, path: Path) -> str:
        """The path of a file below the output folder, as URLs have it."""
        return path.relative_to(self.folder).as_posix()

    def synchronise(self, *, parts: bool = True) -> None:
        """Makes this folder the run at the URL: fetches what a run needs to go on or to be read.

        Where both sides changed a file, the URL's is taken. What only this machine has stays, unless the URL has
        another run, or none: then this folder is emptied first.

        Args:
            parts: whether the finished parts are fetched.

        Raises:
            PlaceError: the URL cannot be read.
            StoreError: the URL has parts of a run and nothing else; the folder cannot be written.
        """
        there = {name: _content(self.place.below(name)) for name in MARKERS}
        if self.wiping.exists() or there != {name: self._here(name) for name in MARKERS}:
            self._empty()
        versions = self._versions() if parts else {}
        if versions and not any(there.values()):
            raise StoreError(f"{self.place} holds parts but {MARKERS[0]} is missing; {REMEDY}")
        if any(there.values()):
            versions[PLAN] = _version(self.place.below(PLAN))
        wanted = [(name, v) for name, v in versions.items() if v is not None and self._is_older(name, v)]
        with ThreadPoolExecutor(AT_ONCE) as threads:
            list(threads.map(lambda one: self._fetch(*one), wanted))
        for name, content in there.items():  # last, since it makes the rest count
            if content is not None and self._here(name) is None:
                with self.written(path := self.folder / name):
                    write_atomically(path, content)
                    self.record.add(name, stamp(path), None)

    @contextmanager
    def written(self, path: Path) -> Iterator[None]:
        """Its block writes a file of this machine. Raises StoreError where it cannot."""
        try:
            yield
        except PlaceError:
            raise
        except OSError as error:
            raise StoreError(
                f"cannot write {path}: {os_reason(error)}; what {self.place} has or gets lies there too, and "
                "CFCAM_CACHE names another folder for that"
            ) from error

    @property
    def _locks(self) -> Path:
        return self.root / "locks"

    def _versions(self) -> dict[str, str | None]:
        """Names and versions of the files in folders that a run reads again. Other names are not of a run."""
        return {
            f"{folder}/{name}": version
            for folder, names in _READ_AGAIN.items()
            for name, version in self.place.below(folder).versions().items()
            if re.fullmatch(names, name)
        }

    def _load(self) -> None:
        with self.written(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.record.load()

    def _here(self, name: str) -> bytes | None:
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def _empty(self) -> None:
        with self.written(self.folder):
            self.record.clear()
            shutil.rmtree(self.folder)
            self.folder.mkdir()
            self.wiping.unlink(missing_ok=True)

    def _is_older(self, name: str, version: str) -> bool:
        return self.record.version(name) != version or not (self.folder / name).exists()

    def _fetch(self, name: str, version: str) -> None:
        path = self.folder / name
        with self.written(path):
            copy_to_disk(self.place.below(name), path)
            self.record.add(name, stamp(path), version)


class Record:
    """Which files are the same on this machine and at the URL; survives the end of the process.

    Example:
        >>> import tempfile
        >>> record = Record(Path(tempfile.mkdtemp()) / "synchronised")
        >>> record.add("run.json", [5, 1], "v1")
        >>> again = Record(record.path)
        >>> again.load()
        >>> again.version("run.json"), again.has("run.json", [5, 1]), again.has("run.json", [6, 2])
        ('v1', True, False)
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: dict[str, tuple[list[int], str | None]] = {}

    def load(self) -> None:
        """Reads what earlier processes stored; lines that a crash cut are left out. Raises OSError."""
        self._entries = {}
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        for line in lines:
            entry = _parsed(line)
            if entry is not None:
                self._entries[entry[0]] = (entry[1], entry[2])

    def add(self, name: str, stamp: list[int], version: str | None) -> None:
        """The file with this stamp is the URL's of this version. Raises OSError."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps([name, stamp, version]))  # a cut line ends before the next one
        self._entries[name] = (stamp, version)

    def version(self, name: str) -> str | None:
        """The version at the URL of the file when it was the same here; None: it never was."""
        return self._entries[name][1] if name in self._entries else None

    def has(self, name: str, stamp: list[int]) -> bool:
        """Whether the file with this stamp is the URL's."""
        return name in self._entries and self._entries[name][0] == stamp

    def clear(self) -> None:
        """Forgets everything. Raises OSError."""
        self._entries = {}
        self.path.unlink(missing_ok=True)


def stamp(path: Path) -> list[int]:
    """What changes with a file of this machine. Raises OSError."""
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]


def _parsed(line: str) -> Any:
    try:
        name, stamped, version = json.loads(line)
    except (ValueError, TypeError):
        return None
    return name, stamped, version


def _content(place: Place) -> bytes | None:
    """The content of a small file; None: it is not there."""
    try:
        return place.read(0, _MOST_BYTES)
    except PlaceError as error:
        if not error.absent:
            raise
        return None


def _version(place: Place) -> str | None:
    try:
        return place.version()
    except PlaceError as error:
        if not error.absent:
            raise
        return None
