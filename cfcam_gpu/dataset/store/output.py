"""Where a run writes and reads its results: a folder on a disk, or at a URL by way of a folder of this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from cfcam_gpu._utils.places.place import Place
from cfcam_gpu._utils.places.schemes import run_url
from cfcam_gpu.dataset.options import RunOptions
from cfcam_gpu.dataset.store.mirror import Mirror
from cfcam_gpu.dataset.store.remote_lock import acquire
from cfcam_gpu.dataset.store.staging import Staging
from cfcam_gpu.dataset.store.uploads import Uploads, publish_page
from cfcam_gpu.errors import ConfigError, InputError, PlaceError, StoreError


@contextmanager
def opened_output(
    out: str | Path, options: RunOptions, note: Callable[[str], None]
) -> Iterator[tuple[Path, Mirror]]:
    """The folder on this machine in which a run writes, and what its finished files are told to.

    Of a URL the lock is held until the block ends, and by then all finished files are there. After an exception,
    also of Ctrl-C, what waits is still uploaded.

    Args:
        note: is told what the run should know of an earlier one at the URL.

    Raises:
        ConfigError: the options are for a folder on a disk.
        InputError: no results are written to such a URL.
        MissingPackageError: what writes to such URLs is not installed.
        StoreError: another run writes there; the URL or this machine's disk cannot be read or written.
    """
    url = run_url(out)
    if url is None:
        yield Path(out), Mirror()
        return
    if options.distributed or options.world_size > 1:
        raise ConfigError(
            f"{url}: a run writes to a URL from one process; leave --distributed, --rank and --world-size out, or "
            "share a folder on a disk and copy it when the run has ended"
        )
    place = Place(url)
    with ExitStack() as stack:
        with _told(place, "cannot hold results"):
            staging = Staging(place)
            staging.claim(stack)
            lock = acquire(place, staging.identity(), note)
            stack.callback(lock.end)
            uploads = Uploads(staging, lock)
            stack.callback(uploads.close)
            staging.synchronise(parts=not options.overwrite)
        try:
            yield staging.folder, uploads
        except BaseException:
            with suppress(StoreError):  # the first error is the one to tell
                uploads.finish(note)
            raise
        uploads.finish(note)


def fetched_output(out: str | Path) -> tuple[Path, Mirror]:
    """The folder on this machine with the results of a run, which are fetched where they are at a URL.

    Raises:
        InputError: no results are at such a URL. MissingPackageError: what reads such URLs is not installed.
        StoreError: a run of this machine is writing there, or the URL cannot be read.
    """
    url = run_url(out)
    if url is None:
        return Path(out), Mirror()
    place = Place(url)
    staging = Staging(place)
    with _told(place, "cannot be read"), staging.reading():
        staging.synchronise()
    return staging.folder, Mirror(url)


def publish(out: str | Path, page: Path) -> None:
    """Uploads a page that was written into the folder of `fetched_output`, if that stands for a URL.

    Raises:
        InputError: it cannot be uploaded.
    """
    url = run_url(out)
    if url is None:
        return
    try:
        publish_page(Staging(Place(url)), page)
    except PlaceError as error:
        raise InputError(f"cannot write the report to {url}: {error}; it is in {page}") from error


@contextmanager
def _told(place: Place, problem: str) -> Iterator[None]:
    try:
        yield
    except PlaceError as error:
        raise StoreError(f"output folder {str(place)!r} {problem}: {error}") from error
