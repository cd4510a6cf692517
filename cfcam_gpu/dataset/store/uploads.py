"""Uploads the finished files of a run, in a thread, while the run goes on."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path
from queue import Empty, Full, Queue
from typing import NamedTuple, TypeVar

from cfcam_gpu._utils.messages import first_line
from cfcam_gpu._utils.places.cache import copy_to_disk
from cfcam_gpu.dataset.sources.names import leads_out
from cfcam_gpu.dataset.store.atomic_files import os_reason, page_folder
from cfcam_gpu.dataset.store.mirror import Mirror
from cfcam_gpu.dataset.store.remote_lock import RemoteLock
from cfcam_gpu.dataset.store.staging import AT_ONCE, MARKERS, PLAN, Staging, stamp
from cfcam_gpu.dataset.store.store import REPORT
from cfcam_gpu.errors import PlaceError, StoreError

T = TypeVar("T")

#: Seconds that a server may answer nothing useful before the run ends.
PATIENCE = 60.0

#: Groups of files that may wait, such as the pictures of a part; then the run waits.
_MOST_WAITING = 16

#: Seconds between two looks at the lock, and between two looks of the run at the uploads it waits for.
_LOCK_INTERVAL, _CHECK_INTERVAL = 5.0, 0.05

#: Seconds that the end of a run takes without a word.
_A_MOMENT = 2.0

#: What a run makes from its parts when it ends, in the order in which it may be seen.
_PLOTS = "plots/*.png"
_MADE_AT_THE_END = ("metrics.parquet", _PLOTS, "summary.json", REPORT)


class _Group(NamedTuple):
    """Files that may be uploaded in any order; `removed`: their copies here are removed then."""

    paths: list[Path]
    removed: bool = False


class Uploads(Mirror):
    """Uploads files group by group, each file as a whole. Pictures are removed here when they are there.

    A group is begun when the one before is there, so that a part is never seen without its pictures.

    Attributes:
        staging: the folder of this machine.
        lock: that of the URL, renewed as long as the thread runs.
    """

    def __init__(self, staging: Staging, lock: RemoteLock) -> None:
        super().__init__(str(staging.place))
        self.staging, self.lock = staging, lock
        self._queue: Queue[_Group | None] = Queue(_MOST_WAITING)
        self._began = time.time()
        self._error: Exception | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="cfcam-uploads", daemon=True)
        self._thread.start()

    def written(self, *paths: Path) -> None:
        self._put(_Group(list(paths)))

    def pictures(self, paths: Iterable[Path]) -> None:
        self._put(_Group([path for path in paths if path.is_file()], removed=True))

    def lacks(self, path: Path) -> bool:
        return not self.staging.record.has(self.staging.name_of(path), stamp(path))

    def wait(self) -> None:
        while self._queue.unfinished_tasks:
            self.check()
            time.sleep(_CHECK_INTERVAL)
        self.check()

    def check(self) -> None:
        error = self._error
        if isinstance(error, StoreError):
            raise error
        if error is not None:
            reason = os_reason(error) if isinstance(error, OSError) else first_line(error)
            raise StoreError(
                f"{self.name}: {reason}; what is finished is kept in {self.staging.folder}, and the same command on "
                "this machine uploads it and goes on"
            ) from error

    def finish(self, note: Callable[[str], None]) -> None:
        """Uploads what the run made at its end, and waits for all uploads.

        Args:
            note: is told where that takes longer than a moment.

        Raises:
            StoreError: a file cannot be uploaded.
        """
        patterns = () if self.staging.wiping.exists() else _MADE_AT_THE_END
        made = {pattern: self._made(pattern) for pattern in patterns}
        for paths in filter(None, made.values()):
            self.written(*paths)
        end = time.monotonic() + _A_MOMENT
        while self._queue.unfinished_tasks and time.monotonic() < end and self._error is None:
            time.sleep(_CHECK_INTERVAL)
        if self._queue.unfinished_tasks and self._error is None:
            note(f"uploading what is finished to {self.name}")
        self.wait()
        if made.get(_PLOTS):
            with self._told():
                _remove_others(self.staging, self.staging.folder / "plots", r"[^/]+\.png")

    def _made(self, pattern: str) -> list[Path]:
        """Files that this run made; earlier ones may be older than those at the URL."""
        paths = sorted(self.staging.folder.glob(pattern))
        return [path for path in paths if path.stat().st_mtime >= self._began]

    def close(self) -> None:
        """Ends the thread; files that still wait are uploaded by the next run."""
        self._ending.set()
        with suppress(Full):
            self._queue.put_nowait(None)
        self._thread.join(1.0)

    @contextmanager
    def wiping(self) -> Iterator[None]:
        """Removes at the URL what its block removes here, where an empty file stands for each of the URL's."""
        with self._told():
            names = [name for name in self.staging.place.versions() if _is_of_a_run(name)]
            stand_ins = self._stand_ins(names)
            yield
            gone = [path for path in stand_ins if not path.exists()]
            self._remove(gone)
            for path in stand_ins:
                path.unlink(missing_ok=True)
            self.staging.record.clear()
            self.staging.wiping.unlink()

    def _stand_ins(self, names: Iterable[str]) -> list[Path]:
        paths = [self.staging.folder / name for name in names]
        with self.staging.written(self.staging.folder):
            self.staging.wiping.touch()
            for path in paths:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
                if path.name == REPORT:  # `Store.wipe` looks whose it is
                    copy_to_disk(self.staging.place.below(self.staging.name_of(path)), path)
        return paths

    def _remove(self, paths: list[Path]) -> None:
        """Removes files at the URL: parts before the pictures they name, and what tells the run last."""
        names = sorted((self.staging.name_of(path) for path in paths), key=_when_removed)
        with ThreadPoolExecutor(AT_ONCE) as threads:
            for _, group in groupby(names, key=_when_removed):
                list(threads.map(lambda name: self.staging.place.below(name).remove(), group))

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except PlaceError as error:
            raise StoreError(f"{self.name}: {error}; the same command goes on from there") from error

    def _put(self, group: _Group) -> None:
        while True:
            self.check()
            with suppress(Full):
                self._queue.put(group, timeout=_CHECK_INTERVAL)
                return

    def _serve(self) -> None:
        try:
            with ThreadPoolExecutor(AT_ONCE) as threads:
                while not self._ending.is_set():
                    self.lock.renew_if_due()
                    with suppress(Empty):
                        self._serve_group(self._queue.get(timeout=_LOCK_INTERVAL), threads)
        except Exception as error:
            self._error = error

    def _serve_group(self, group: _Group | None, threads: ThreadPoolExecutor) -> None:
        upload = self._upload_picture if group and group.removed else self._upload
        for _ in threads.map(upload, group.paths if group else []):
            self.lock.renew_if_due()
        self._queue.task_done()

    def _upload(self, path: Path) -> None:
        name, stamped = self.staging.name_of(path), stamp(path)
        if self.staging.record.has(name, stamped):
            return
        place = self.staging.place.below(name)
        self._patiently(lambda: place.put(path))
        version = self._patiently(place.version)
        with self.staging.written(self.staging.record.path):
            self.staging.record.add(name, stamped, version)

    def _upload_picture(self, path: Path) -> None:
        with suppress(FileNotFoundError):  # it is there already
            self._patiently(lambda: self.staging.place.below(self.staging.name_of(path)).put(path))
            path.unlink()

    def _patiently(self, action: Callable[[], T]) -> T:
        """The action's result; failures that may pass are tried again for `PATIENCE` seconds."""
        pause, end = 0.25, time.monotonic() + PATIENCE
        while True:
            try:
                return action()
            except PlaceError as error:
                if not error.passing or time.monotonic() > end or self._ending.wait(pause):
                    raise
                pause = min(2 * pause, 8.0)


def publish_page(staging: Staging, page: Path) -> None:
    """Uploads a page, after the files in the folder beside it; removes files of that folder that are no more.

    Raises:
        PlaceError: the URL cannot be written. OSError: a file on the disk cannot be read.
    """
    beside = page_folder(page)
    paths = [path for path in sorted(beside.rglob("*")) if path.is_file()]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(lambda path: staging.place.below(staging.name_of(path)).put(path), paths))
    staging.place.below(staging.name_of(page)).put(page)
    _remove_others(staging, beside, r"r-[0-9a-f]{12}/.+")


def _remove_others(staging: Staging, folder: Path, pattern: str) -> None:
    """Removes the files of a folder at the URL that are not in that folder here; `pattern`: the names of ours.

    Raises PlaceError.
    """
    place = staging.place.below(staging.name_of(folder))
    for name in place.versions():
        if re.fullmatch(pattern, name) and not leads_out(name) and not (folder / name).is_file():
            place.below(name).remove()


def _is_of_a_run(name: str) -> bool:
    return not leads_out(name) and not name.startswith(".cfcam/")


def _when_removed(name: str) -> int:
    """0 for parts, 1 for the rest, 2 for what tells the run."""
    return 0 if name.startswith("shards/") else 2 if name in (PLAN, *MARKERS) else 1
