"""The files that a file, folder or pattern among the inputs stands for."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from cfcam_gpu.errors import InputError


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file, or the folder of a saved data set, that an input stands for.

    Attributes:
        path: as it was given.
        real: its absolute path with symbolic links resolved, the same for all paths of one file.
        relative: the path below the folder that was searched, else the file's name; its name is made of it.
    """

    path: Path
    real: str
    relative: PurePath


def expand_input(text: str, exclude: Path | None = None) -> list[InputFile]:
    """The files that one input stands for.

    A folder is searched with all folders below it, in sorted order. Symbolic links are followed, but no
    folder is searched twice. All files count, also those that are no images, but not hidden ones, whose
    names begin with a dot.

    Args:
        text: a file, folder or glob pattern; `~` is the home folder. The path of an existing file is that file,
            even if it reads like a pattern.
        exclude: the output folder, which is left out where it lies in the folder, or below the part of the pattern
            that has no wildcards.

    Raises:
        InputError: the input does not exist, matches nothing, holds no files or is the output folder, or a
            folder cannot be read.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("b.png", "a.png", ".hidden"):
        ...     (folder / name).touch()
        >>> [str(file.relative) for file in expand_input(str(folder))]
        ['a.png', 'b.png']
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


def _file(path: Path) -> InputFile:
    return InputFile(path, os.path.realpath(path), PurePath(path.name))


def _expand_folder(folder: Path, text: str, excluded: str | None) -> list[InputFile]:
    if os.path.realpath(folder) == excluded:
        raise InputError(f"input folder {text!r} is the output folder as well; choose another output folder")
    files = [InputFile(path, real, path.relative_to(folder)) for path, real in _walk(folder, excluded, set())]
    if not files:
        raise InputError(
            f"input folder {text!r} holds no files (hidden files and the output folder do not count)"
        )
    return files


def _walk(folder: Path, excluded: str | None, entered: set[str]) -> Iterator[tuple[Path, str]]:
    """Every file below `folder`, sorted, with its real path; folders whose real path is in `entered` are left out."""
    real = os.path.realpath(folder)
    if real == excluded or real in entered:
        return
    entered.add(real)
    for entry in _entries(folder):
        path = folder / entry.name
        if entry.name.startswith("."):
            continue
        link = entry.is_symlink()
        # A link that leads nowhere or to itself counts as a file; decoding it then reports an error.
        if os.path.isdir(path) if link else entry.is_dir():
            yield from _walk(path, excluded, entered)
        else:
            yield path, os.path.realpath(path) if link else os.path.join(real, entry.name)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"folder {str(folder)!r} cannot be read: {error.strerror}") from error


def _expand_pattern(pattern: str, text: str, excluded: str | None) -> list[InputFile]:
    root = _fixed_part(pattern)
    if excluded is not None and not _is_below(excluded, os.path.realpath(root)):
        excluded = None
    if "**" in pattern and os.path.isdir(root):
        _refuse_unreadable(root, excluded)
    files: list[InputFile] = []
    for match in sorted(glob.glob(pattern, recursive=True)):
        path = Path(match)
        real = os.path.realpath(path)
        if excluded is not None and (real == excluded or _is_below(real, excluded)):
            continue
        if os.path.isdir(path):
            files += (InputFile(p, r, p.relative_to(path)) for p, r in _walk(path, excluded, set()))
        else:
            files.append(_file(path))
    if not files:
        raise InputError(
            f"no file matches the pattern {text!r} (hidden files and the output folder do not count)"
        )
    return files


def _fixed_part(pattern: str) -> Path:
    """The folder above the first component of the pattern that has a wildcard."""
    path = Path(pattern)
    return next(parent for parent in path.parents if not glob.has_magic(str(parent)))


def _is_below(path: str, folder: str) -> bool:
    return Path(folder) in Path(path).parents


def _refuse_unreadable(root: Path, excluded: str | None) -> None:
    """Raises InputError for the first folder that cannot be read: `glob` would leave it out silently."""
    for _ in _walk(root, excluded, set()):
        pass
