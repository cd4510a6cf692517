"""The files that a URL among the inputs stands for."""

from __future__ import annotations

import glob
from pathlib import PurePath

from cfcam_gpu._utils.places.masking import masked
from cfcam_gpu._utils.places.place import Place
from cfcam_gpu.dataset.sources.folders import InputFile, brace_texts
from cfcam_gpu.dataset.sources.names import safe_name
from cfcam_gpu.errors import InputError, PlaceError


def expand_url(url: str) -> tuple[bool, list[InputFile]]:
    """Whether a URL is a folder, and the files that it stands for.

    A folder is searched with all folders below it, in the order of local folders. Hidden files and folders, whose
    names begin with a dot, do not count.

    Args:
        url: a file, folder or pattern, also with braces, all of whose names must exist. Patterns and folders are for
            places that can be listed, which web servers cannot.

    Raises:
        InputError: there is no such file or folder, it cannot be read, or is empty.
        MissingPackageError: what reads such URLs is not installed.
    """
    texts = brace_texts(url)
    if texts != [url]:
        return False, [file for one in texts for file in expand_url(one)[1]]
    try:
        return _expand(Place(url))
    except PlaceError as error:
        hint = "" if Place(url).lists else "; of a web server, single files are read, not folders"
        raise InputError(f"input {masked(url)!r} cannot be read: {error}{hint}") from error


def _expand(place: Place) -> tuple[bool, list[InputFile]]:
    if place.lists and glob.has_magic(place.path) and not _exists(place):
        matches = [match for match in place.matches() if not _is_hidden(match.name)]
        if not matches:
            raise InputError(f"no file matches the pattern {str(place)!r} (hidden files do not count)")
        return False, [_file(match) for match in matches]
    if not place.is_folder():
        return False, [_file(place)]
    paths = sorted(path.split("/") for path in place.files())
    files = [_file(place.below("/".join(path)), "/".join(path)) for path in paths if not _is_hidden(*path)]
    if not files:
        raise InputError(f"input folder {str(place)!r} holds no files (hidden files do not count)")
    return True, files


def _exists(place: Place) -> bool:
    try:
        place.is_folder()
    except PlaceError:
        return False
    return True


def _is_hidden(*parts: str) -> bool:
    return any(part.startswith(".") for part in parts)


def _file(place: Place, relative: str | None = None) -> InputFile:
    return InputFile(place, place.url, PurePath(safe_name(place.name if relative is None else relative)))
