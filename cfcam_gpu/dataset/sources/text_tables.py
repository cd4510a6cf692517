"""Tables in text files: CSV and TSV, JSON Lines, and plain lists of paths."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from cfcam_gpu._utils.places.masking import masked
from cfcam_gpu._utils.places.place import Place
from cfcam_gpu.dataset.sources.labels import parsed_json
from cfcam_gpu.dataset.sources.names import IMAGE_SUFFIXES
from cfcam_gpu.errors import InputError

#: Where a row is, for messages ("line 3"), and its cells by column.
Line = tuple[str, dict[str, Any]]

#: Checks the columns of a table, given the manifest's path. Raises InputError.
CheckColumns = Callable[[Path | Place, list[str]], None]

_DELIMITERS = ",\t;"
_SEPARATOR_HINT = re.compile(r"sep=(.)\s*", re.IGNORECASE | re.DOTALL)

#: A line of a plain list: the path of an image, then perhaps a class as digits.
_PATH_AND_CLASS = re.compile(
    rf"(.*(?:{'|'.join(map(re.escape, sorted(IMAGE_SUFFIXES)))}))[ \t,]+(\d{{1,9}})", re.I
)


def error_at(path: Path | Place, place: str, reason: str) -> InputError:
    """The error for a mistake at a place of a manifest."""
    return InputError(masked(f"manifest {str(path)!r}, {place}: {reason}"))


def read_csv(path: Path | Place, paths: Sequence[str], check: CheckColumns) -> Iterator[Line]:
    """The rows of a CSV file; rows whose cells are all empty are left out.

    The delimiter is a comma, semicolon or tab, whichever gives the header one of the columns `paths`; or the one
    that the line "sep=;" before it names. Lines end with LF, CRLF or, as on old Macs, CR.
    """
    with path.open("rb") as file:
        lines = text_lines(path, file)
        number, header = 1, next(lines, "")
        hint = _SEPARATOR_HINT.fullmatch(header)
        if hint:
            number, header = 2, next(lines, "")
        delimiter = hint[1] if hint else max(_DELIMITERS, key=lambda mark: _fit(header, mark, paths))
        columns = _split(header, delimiter)
        check(path, columns)
        reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
        start = number + 1
        try:
            for cells in reader:
                place, start = f"line {start}", reader.line_num + number + 1
                if not any(cells):
                    continue
                if len(cells) != len(columns):
                    raise error_at(path, place, f"cells: {len(cells)}, but the header has {len(columns)}")
                yield place, dict(zip(columns, cells, strict=True))
        except csv.Error as error:
            raise error_at(path, f"line {start}", f"no valid CSV: {error}") from error


def _fit(header: str, delimiter: str, paths: Sequence[str]) -> tuple[bool, int]:
    """How well a delimiter fits the header: whether it gives a column of paths, and the number of columns."""
    columns = _split(header, delimiter)
    return any(name in columns for name in paths), len(columns)


def _split(header: str, delimiter: str) -> list[str]:
    cells = next(csv.reader([header], delimiter=delimiter, skipinitialspace=True), [])
    return [cell.strip().lower() for cell in cells]


def read_json_lines(path: Path | Place, check: CheckColumns) -> Iterator[Line]:
    """The objects of a file with one JSON object a line; empty lines are left out. The first names the columns."""
    first = True
    with path.open("rb") as file:
        for number, line in enumerate(text_lines(path, file), 1):
            if not line.strip():
                continue
            place = f"line {number}"
            try:
                content = parsed_json(line)
            except ValueError as error:
                raise error_at(path, place, f"no valid JSON: {error}") from error
            if not isinstance(content, dict):
                raise error_at(path, place, f"expected a JSON object, got {type(content).__name__}")
            names = [name.strip().lower() for name in content]
            row = dict(zip(names, content.values(), strict=True))
            if first or len(row) < len(names):
                check(path, names)
                first = False
            yield place, row


def read_list(path: Path | Place) -> Iterator[Line]:
    """The paths of a plain list, one a line; after the path of an image may stand its class as digits."""
    with path.open("rb") as file:
        for number, line in enumerate(text_lines(path, file), 1):
            text = line.rstrip("\r\n")
            if not text.strip():
                continue
            match = _PATH_AND_CLASS.fullmatch(text.rstrip())
            yield f"line {number}", {"path": match[1], "label": match[2]} if match else {"path": text}


def first_path(line: str) -> str:
    """The path in a line of a plain list.

    Example:
        >>> first_path("cats/1 b.jpg 281"), first_path("IM0001")
        ('cats/1 b.jpg', 'IM0001')
    """
    match = _PATH_AND_CLASS.fullmatch(line.rstrip())
    return match[1] if match else line


def text_lines(path: Path | Place, file: BinaryIO) -> Iterator[str]:
    """The lines of a file in UTF-8, with their ends. Raises InputError for the first that is not UTF-8."""
    text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
    for number, line in enumerate(text, 1):
        if not line.isascii() and re.search("[\udc80-\udcff]", line):
            raise error_at(path, f"line {number}", "not UTF-8; save the manifest as UTF-8")
        yield line
