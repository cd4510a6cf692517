"""Files at URLs that are kept on this machine's disk: weights and class names."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path

from cfcam_gpu._utils.places.masking import masked
from cfcam_gpu._utils.places.place import Place


def cache_folder() -> Path:
    """The folder `CFCAM_CACHE` of the environment, else `cfcam-gpu` in the user's cache folder."""
    given = os.environ.get("CFCAM_CACHE")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cfcam-gpu"


def local_copy(url: str) -> Path:
    """The file at a URL, copied to the cache folder unless it is there already.

    Its name has a hash of the URL and of the version (ETag or checksum) that the server states, so that a changed file
    is fetched anew. Where the server states none, the file is fetched every time.

    Raises:
        PlaceError: it cannot be read. MissingPackageError: what reads such URLs is not installed.
        OSError: the folder cannot be written.
    """
    place = Place(url)
    version = place.version()
    digest = hashlib.sha256(f"{masked(url)} {version}".encode("utf-8", "surrogatepass")).hexdigest()[:16]
    path = cache_folder() / f"{digest}-{plain_name(place.name)}"
    if version is None or not path.is_file():
        copy_to_disk(place, path)
    return path


def plain_name(name: str) -> str:
    """A name of a file of plain characters, made from a part of a URL."""
    return re.sub(r"[^\w.-]", "_", name)[-100:]


def copy_to_disk(place: Place, path: Path) -> None:
    """Copies a file at a URL to a path. Processes that do so at the same time each rename a whole file.

    Raises:
        PlaceError, MissingPackageError: it cannot be read. OSError: the path cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with place.open() as source, tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as target:
        try:
            shutil.copyfileobj(source, target, 1 << 20)
            target.close()
            os.replace(target.name, path)
        except BaseException:
            Path(target.name).unlink(missing_ok=True)
            raise
