"""The files that a URL among the inputs stands for."""

from __future__ import annotations

import glob
import re
from pathlib import Path

from cfcam_gpu._utils.places.masking import masked
from cfcam_gpu._utils.places.place import Place
from cfcam_gpu._utils.places.schemes import is_url
from cfcam_gpu.dataset.sources.folders import InputFile, brace_texts
from cfcam_gpu.dataset.sources.names import safe_name
from cfcam_gpu.errors import InputError, PlaceError


def expand_url(url: str, exclude: str | Path | None = None) -> tuple[bool, list[InputFile]]:
    """Whether a URL is a folder, and the files that it stands for.

    A folder is searched with all folders below it, in the order of local folders. Hidden files and folders, whose
    names begin with a dot, do not count.

    Args:
        url: a file, folder or pattern, also with braces, all of whose names must exist. Patterns and folders are for
            places that can be listed, which web servers cannot.
        exclude: the output folder or its URL, as for `expand_input`.

    Raises:
        InputError: there is no such file or folder, it cannot be read, or is empty.
        MissingPackageError: what reads such URLs is not installed.
    """
    texts = brace_texts(url)
    if texts != [url]:
        return False, [file for one in texts for file in expand_url(one, exclude)[1]]
    try:
        return _expand(Place(url), exclude if isinstance(exclude, str) and is_url(exclude) else None)
    except PlaceError as error:
        hint = "" if Place(url).lists else "; of a web server, single files are read, not folders"
        raise InputError(f"input {masked(url)!r} cannot be read: {error}{hint}") from error


def _expand(place: Place, exclude: str | None) -> tuple[bool, list[InputFile]]:
    if place.lists and glob.has_magic(place.path) and not _exists(place):
        root = re.split(r"[*?\[]", place.url)[0].rpartition("/")[0]
        found = _outside(exclude, root, place.matches())
        matches = [
            match for match in found if not _is_hidden(*_key(match.url).removeprefix(_key(root)).split("/"))
        ]
        if not matches:
            raise InputError(f"no file matches the pattern {str(place)!r} (hidden files do not count)")
        return False, [_file(match) for match in matches]
    if not place.is_folder():
        return False, [_file(place)]
    paths = sorted(path.split("/") for path in place.files())
    below = {place.below("/".join(path)): "/".join(path) for path in paths if not _is_hidden(*path)}
    files = [_file(file, below[file]) for file in _outside(exclude, place.url, list(below))]
    if not files:
        raise InputError(f"input folder {str(place)!r} holds no files (hidden files do not count)")
    return True, files


def _outside(exclude: str | None, root: str, places: list[Place]) -> list[Place]:
    """The files that are not in the output folder; all of them where the folder `root` is not above it."""
    if exclude is None or not _key(exclude).startswith(_key(root)):
        return places
    return [place for place in places if not _key(place.url).startswith(_key(exclude))]


def _key(url: str) -> str:
    """The path of a folder or file, by which one lies below another."""
    scheme, _, path = url.partition("://")
    return f"{scheme.lower()}://{path.strip('/')}/"


def _exists(place: Place) -> bool:
    try:
        place.is_folder()
    except PlaceError:
        return False
    return True


def _is_hidden(*parts: str) -> bool:
    return any(part.startswith(".") for part in parts)


def _file(place: Place, relative: str | None = None) -> InputFile:
    return InputFile(place, place.url, str(safe_name(place.name if relative is None else relative)))
