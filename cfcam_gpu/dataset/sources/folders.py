"""The files that a file, folder or pattern among the inputs stands for."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from cfcam_gpu._utils.places.masking import masked
from cfcam_gpu._utils.places.place import Place
from cfcam_gpu._utils.places.schemes import is_url, unread_scheme
from cfcam_gpu.dataset.sources.folder_entries import UnreadableFolder, sorted_entries
from cfcam_gpu.errors import InputError


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file, or the folder of a saved data set, that an input stands for.

    Attributes:
        given: its path as it was given, or the place.
        real: its absolute path with symbolic links resolved, the same for all paths of one file; of a `Place` its URL.
        relative: the path below the folder that was searched, else the file's name; its name is made of it.
        problem: why it cannot be read, where listing it has shown that; None: it may be read.
    """

    given: str | Place
    real: str
    relative: str
    problem: str | None = None

    @property
    def path(self) -> Path | Place:
        """The path or place. Making a `Path` takes longer than everything else that is done with most files."""
        return Path(self.given) if isinstance(self.given, str) else self.given


#: The innermost braces, and a range of numbers in them.
_BRACES, _RANGE = re.compile(r"\{([^{}]*)\}"), re.compile(r"(\d{1,9})\.\.(\d{1,9})", re.ASCII)

#: Most names that one pair of braces may stand for.
_MOST_NAMES = 1_000_000


def expand_input(text: str, exclude: str | Path | None = None) -> Iterator[InputFile]:
    """The files that one input stands for, each as it is found.

    A folder is searched with all folders below it, in sorted order. Symbolic links are followed, but no
    folder is searched twice. All files count, also those that are no images, but not hidden ones, whose
    names begin with a dot.

    Args:
        text: a file, folder or glob pattern, also with braces ("part-{000..009}.tar", "{train,val}"), all of whose
            names must exist; `~` is the home folder. The path of an existing file is that file, even if it reads
            like a pattern.
        exclude: the output folder, which is left out where it lies in the folder, or below the part of the pattern
            that has no wildcards.

    Raises:
        InputError: the input does not exist, matches nothing, holds no files, is the output folder or cannot be
            read. A folder below it that cannot be read is a file with a problem.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("b.png", "a.png", ".hidden"):
        ...     (folder / name).touch()
        >>> [file.relative for file in expand_input(str(folder))]
        ['a.png', 'b.png']
    """
    if not text.strip():
        raise InputError(
            "an input is an empty text; name a file, folder or pattern ('.' is the current folder)"
        )
    excluded = None if exclude is None else os.path.realpath(exclude)
    path = Path(os.path.expanduser(text))
    if os.path.isdir(path):  # Path.is_dir raises below a folder that may not be entered
        return _expand_folder(path, text, excluded)
    if os.path.lexists(path):
        return iter([_file(path)])
    problem = unread_scheme(text)
    if problem is not None:
        raise InputError(f"input {masked(text)!r} {problem}")
    texts = brace_texts(text)
    if texts != [text]:
        return (file for one in texts for file in expand_input(one, exclude))
    if not glob.has_magic(text):
        raise InputError(f"input {text!r} does not exist or cannot be reached; check the path")
    return iter(_expand_pattern(str(path), text, excluded))


def check_input(text: str) -> None:
    """Raises InputError, as `expand_input` does, for an input that does not exist or matches nothing; lists no files.

    URLs are left to `find.find_samples`.

    Example:
        >>> check_input("nowhere")
        Traceback (most recent call last):
        cfcam_gpu.errors.InputError: input 'nowhere' does not exist or cannot be reached; check the path
    """
    path = os.path.expanduser(text)
    if is_url(text) or os.path.lexists(path):
        return
    texts = brace_texts(text)
    if texts != [text]:
        for one in texts:
            check_input(one)
    elif next(glob.iglob(path, recursive=True), None) is None:
        expand_input(text)


def _file(path: Path) -> InputFile:
    return InputFile(str(path), os.path.realpath(path), path.name)


def _expand_folder(folder: Path, text: str, excluded: str | None) -> Iterator[InputFile]:
    if os.path.realpath(folder) == excluded:
        raise InputError(f"input folder {text!r} is the output folder as well; choose another output folder")
    files = _walk(folder, excluded)
    first = next(files, None)
    if first is None:
        raise InputError(
            f"input folder {text!r} holds no files (hidden files and the output folder do not count)"
        )
    return chain([first], files)


def _walk(folder: Path, excluded: str | None) -> Iterator[InputFile]:
    """Every file below `folder`, sorted by folder; a folder below it that cannot be read is a file with a problem."""
    real = os.path.realpath(folder)
    if real == excluded:
        return
    entered = {real}
    # A stack, since a function that calls itself ends at a depth of some hundred folders.
    levels = [(_prefix(str(folder)), "", _prefix(real), sorted_entries(folder))]
    while levels:
        parent, below, parent_real, entries = levels[-1]
        entry = next(entries, None)
        if entry is None:
            levels.pop()
            continue
        path, relative = f"{parent}{entry.name}", f"{below}{entry.name}"
        real = os.path.realpath(path) if entry.is_link else f"{parent_real}{entry.name}"
        # A link that leads nowhere or to itself counts as a file; decoding it then reports an error.
        if not (os.path.isdir(path) if entry.is_link else entry.is_folder):
            yield InputFile(path, real, relative)
        elif real != excluded and real not in entered:
            entered.add(real)
            try:
                levels.append((_prefix(path), f"{relative}/", _prefix(real), sorted_entries(Path(path))))
            except UnreadableFolder as error:
                yield InputFile(path, real, relative, problem=str(error))


def _prefix(folder: str) -> str:
    """What stands before the names of a folder's files in their paths."""
    return "" if folder == os.curdir else os.path.join(folder, "")


def _expand_pattern(pattern: str, text: str, excluded: str | None) -> list[InputFile]:
    root = _fixed_part(pattern)
    if excluded is not None and not _is_below(excluded, os.path.realpath(root)):
        excluded = None
    files: list[InputFile] = []
    if "**" in pattern and os.path.isdir(root):  # glob leaves folders that cannot be read out silently
        files += [file for file in _walk(root, excluded) if file.problem]
    for match in sorted(glob.glob(pattern, recursive=True)):
        path = Path(match)
        real = os.path.realpath(path)
        if excluded is not None and (real == excluded or _is_below(real, excluded)):
            continue
        if os.path.isdir(path):
            files += _walk(path, excluded)
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


def brace_texts(text: str) -> list[str]:
    """The texts that the first braces stand for, as in a shell; [text] where there are none.

    Example:
        >>> brace_texts("part-{08..11}.tar")
        ['part-08.tar', 'part-09.tar', 'part-10.tar', 'part-11.tar']
        >>> brace_texts("{train,val}.tar")
        ['train.tar', 'val.tar']
    """
    for match in _BRACES.finditer(text):
        before, inside, after = text[: match.start()], match[1], text[match.end() :]
        ends = _RANGE.fullmatch(inside)
        if ends:
            first, last = int(ends[1]), int(ends[2])
            width = len(ends[1]) if ends[1].startswith("0") else 0
            numbers = range(first, last + 1) if first <= last else range(first, last - 1, -1)
            if len(numbers) > _MOST_NAMES:
                raise InputError(
                    f"input {text!r} stands for {len(numbers):,} names; {_MOST_NAMES:,} are the most"
                )
            return [f"{before}{number:0{width}d}{after}" for number in numbers]
        if "," in inside:
            return [before + part + after for part in inside.split(",")]
    return [text]
