"""Which files to explain, and what their outputs are called."""

from __future__ import annotations

import glob
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from cfcam_gpu.errors import InputError


@dataclass(frozen=True, slots=True)
class Found:
    """A file that an input stands for."""

    path: Path
    real: str  # absolute, symbolic links resolved: tells whether two paths are one file
    relative: (
        PurePath  # what names are made of: the path below a folder that was searched, else the file's name
    )


def expand_input(text: str, exclude: Path | None = None) -> list[Found]:
    """The files that one input (a file, folder or glob pattern) stands for.

    A folder is searched recursively, in sorted order, through symbolic links but never in circles.
    Every file in it counts, also one that is no image, save hidden ones (a leading dot).
    `exclude` (the output folder) is left out where it lies inside a folder or below a pattern's
    fixed part. `~` is the home folder. An existing file is a file even if its name reads like a pattern.

    Raises:
        InputError: an input that does not exist, matches nothing, holds no file or is the output
            folder itself, or a folder that cannot be read.
    """
    excluded = None if exclude is None else os.path.realpath(exclude)
    path = Path(os.path.expanduser(text))
    if os.path.isdir(path):  # Path.is_dir raises below a folder that may not be entered
        return _expand_folder(path, text, excluded)
    if os.path.lexists(path):
        return [_file(path)]
    if not glob.has_magic(text):
        raise InputError(f"input {text!r} does not exist or cannot be reached; check the path")
    return _expand_pattern(str(path), text, excluded)


def _file(path: Path) -> Found:
    return Found(path, os.path.realpath(path), PurePath(path.name))


def _expand_folder(folder: Path, text: str, excluded: str | None) -> list[Found]:
    if os.path.realpath(folder) == excluded:
        raise InputError(f"input folder {text!r} is the output folder as well; choose another output folder")
    found = [Found(path, real, path.relative_to(folder)) for path, real in _walk(folder, excluded, set())]
    if not found:
        raise InputError(
            f"input folder {text!r} holds no files (hidden files and the output folder do not count)"
        )
    return found


def _walk(folder: Path, excluded: str | None, seen: set[str]) -> Iterator[tuple[Path, str]]:
    """Every file below `folder`, sorted, with its real path; a folder already in `seen` is not entered."""
    real = os.path.realpath(folder)
    if real == excluded or real in seen:
        return
    seen.add(real)
    for entry in _entries(folder):
        path = folder / entry.name
        if entry.name.startswith("."):
            continue
        link = entry.is_symlink()
        # A link that leads nowhere or to itself counts as a file, so that decoding reports it.
        if os.path.isdir(path) if link else entry.is_dir():
            yield from _walk(path, excluded, seen)
        else:
            yield path, os.path.realpath(path) if link else os.path.join(real, entry.name)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"folder {str(folder)!r} cannot be read: {error.strerror}") from error


def _expand_pattern(pattern: str, text: str, excluded: str | None) -> list[Found]:
    root = _fixed_part(pattern)
    if excluded is not None and not _is_below(excluded, os.path.realpath(root)):
        excluded = None
    if "**" in pattern and os.path.isdir(root):
        _refuse_unreadable(root, excluded)
    found: list[Found] = []
    for match in sorted(glob.glob(pattern, recursive=True)):
        path = Path(match)
        real = os.path.realpath(path)
        if excluded is not None and (real == excluded or _is_below(real, excluded)):
            continue
        if os.path.isdir(path):
            found += (Found(p, r, p.relative_to(path)) for p, r in _walk(path, excluded, set()))
        else:
            found.append(_file(path))
    if not found:
        raise InputError(
            f"no file matches the pattern {text!r} (hidden files and the output folder do not count)"
        )
    return found


def _fixed_part(pattern: str) -> Path:
    """The folder above the first part of the pattern that has a wildcard."""
    path = Path(pattern)
    return next(parent for parent in path.parents if not glob.has_magic(str(parent)))


def _is_below(path: str, folder: str) -> bool:
    return Path(folder) in Path(path).parents


def _refuse_unreadable(root: Path, excluded: str | None) -> None:
    """glob passes over folders it cannot read; walking them all raises for the first one."""
    for _ in _walk(root, excluded, set()):
        pass


def unique_names(stems: Sequence[str], fulls: Sequence[str]) -> list[str]:
    """One name each: the stem, where that clashes the full path, where that clashes a numbered stem."""
    same_stem, same_full = Counter(map(_key, stems)), Counter(map(_key, fulls))
    return _number([
        full if same_stem[_key(stem)] > 1 and same_full[_key(full)] == 1 else stem
        for stem, full in zip(stems, fulls, strict=True)
    ])  # fmt: skip


def _number(wanted: list[str]) -> list[str]:
    """Unique names: the first of equal ones keeps its name, the others get "-2", "-3", …"""
    names: list[str] = []
    # A name that somebody wants is never given to another as a numbered one.
    reserved, taken = set(map(_key, wanted)), set[str]()
    last: Counter[str] = Counter()
    for name in wanted:
        key, unique = _key(name), name
        while _key(unique) in taken or (unique != name and _key(unique) in reserved):
            last[key] += 1
            unique = f"{name}-{last[key] + 1}"
        taken.add(_key(unique))
        names.append(unique)
    return names


def names_of(relative: PurePath) -> tuple[str, str]:
    """The path without its extension, and the path; "...png" stays whole, since ".." is no name."""
    full = relative.as_posix()
    named = relative.stem.strip(".") != ""
    return (relative.with_suffix("").as_posix() if named else full), full


def _key(name: str) -> str:
    """Equal for names that may be one file on a file system that ignores case or composes accents."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())
