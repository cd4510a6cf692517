"""Manifests: CSV and Parquet tables with one row for each image.

Columns: `path` or `uri`; optional are `sample_id`, `label`, `target`, and where the object is: `mask`
(path of an image) or `box` (x0,y0,x1,y1 in pixels). Other columns are ignored.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from cfcam_gpu._utils.messages import first_line
from cfcam_gpu.dataset.sources.masks import box_mask
from cfcam_gpu.dataset.sources.sample import Sample, clean_text, make_uri, path_uri, split_uri
from cfcam_gpu.errors import InputError

#: Extensions of manifests.
MANIFEST_SUFFIXES = frozenset((".csv", ".tsv", ".parquet"))

_DELIMITERS = ",\t;"
_PLACES = ("path", "uri")
_MASKS = ("mask", "box")
_COLUMNS = (*_PLACES, "sample_id", "label", "target", *_MASKS)

#: Where a row is, for messages ("line 3" of a CSV file, "row 2" of a Parquet file), and its cells as text.
_Row = tuple[str, dict[str, str]]


def manifest_samples(path: Path) -> list[Sample]:
    """One sample for each row, in the manifest's order.

    Relative paths begin in the manifest's folder and must not leave it. Whether the files exist is not checked
    here: decoding them reports it. Without `sample_id` the id is the path or URI as it was written. Empty cells
    count as missing. A mistake in a mask or box becomes a `broken:` mask, since it concerns only runs that use
    masks.

    Args:
        path: a file with one of `MANIFEST_SUFFIXES`.

    Raises:
        InputError: the manifest cannot be read or has no rows, a column is missing or occurs twice, or a row has
            no path, a path that leaves the folder or the sample_id of another row.

    Example:
        >>> import tempfile
        >>> manifest = Path(tempfile.mkdtemp()) / "photos.csv"
        >>> _ = manifest.write_text("path,label\\ncat.jpg,cat\\n")
        >>> [(sample.sample_id, sample.label) for sample in manifest_samples(manifest)]
        [('cat.jpg', 'cat')]
    """
    samples: list[Sample] = []
    places: dict[str, str] = {}
    try:
        rows = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path)
        for place, row in rows:
            sample = _sample(path, place, row)
            earlier = places.setdefault(sample.sample_id, place)
            if earlier != place:
                raise _error(path, place, f"sample_id {sample.sample_id!r} was given in {earlier} already")
            samples.append(sample)
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise InputError(f"manifest {str(path)!r} cannot be read: {reason}") from error
    if not samples:
        raise InputError(f"manifest {str(path)!r} holds no rows")
    return samples


def _error(path: Path, place: str, reason: str) -> InputError:
    return InputError(f"manifest {str(path)!r}, {place}: {reason}")


def _sample(manifest: Path, place: str, row: Mapping[str, str]) -> Sample:
    column = "uri" if "uri" in row else "path"
    text = row[column]
    if not text:
        raise _error(manifest, place, f"the {column} is empty")
    try:
        uri = _resolve_uri(manifest, text) if column == "uri" else _resolve_path(manifest, text)
    except ValueError as error:
        raise _error(manifest, place, f"{column} {text!r} {error}") from None
    sample_id = clean_text(row.get("sample_id") or PurePosixPath(text).as_posix())
    mask = _mask(manifest, place, row)
    return Sample(sample_id, uri, row.get("label") or None, row.get("target") or None, mask=mask)


def _mask(manifest: Path, place: str, row: Mapping[str, str]) -> str | None:
    texts = {column: row[column] for column in _MASKS if row.get(column)}
    where = f"manifest {str(manifest)!r}, {place}"
    if len(texts) > 1:
        return make_uri("broken", where, "there are a mask and a box; leave one empty")
    for column, text in texts.items():
        try:
            return box_mask(text) if column == "box" else _resolve_path(manifest, text)
        except ValueError as error:
            return make_uri("broken", where, f"{column} {text[:80]!r} {error}")
    return None


def _resolve_path(manifest: Path, text: str) -> str:
    return path_uri(_inside(manifest, text))


def _resolve_uri(manifest: Path, text: str) -> str:
    """The URI with absolute paths. Raises ValueError for a URI that no manifest may hold."""
    if text.startswith("file:///"):
        return path_uri(unquote(text.removeprefix("file://")))
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", text)
    if scheme:
        raise ValueError(f"is of the kind {scheme[1]}://, which is not read; copy the files to a disk first")
    kind, parts = split_uri(text)
    if kind == "broken":
        raise ValueError("names no image")
    parts = [_inside(manifest, parts[0]), *parts[1:]]
    return path_uri(parts[0]) if kind == "file" else make_uri(kind, *parts)


def _inside(manifest: Path, text: str) -> str:
    """The absolute path. Raises ValueError for a relative path that leads out of the manifest's folder."""
    if "\0" in text:
        raise ValueError("holds a null character")
    if not os.path.isabs(text) and ".." in re.split(r"[/\\]", text):
        raise ValueError(
            "leaves the manifest's folder by '..'; write an absolute path or put the manifest higher up"
        )
    return os.path.join(manifest.parent.absolute(), os.path.normpath(text))


def _check_columns(path: Path, columns: list[str]) -> None:
    repeated = [name for name in _COLUMNS if columns.count(name) > 1]
    if repeated:
        raise InputError(f"manifest {str(path)!r} has the column {repeated[0]!r} more than once")
    places = [name for name in _PLACES if name in columns]
    if len(places) != 1:
        got = "both" if places else f"only {', '.join(map(repr, columns)) or 'nothing'}"
        raise InputError(f"manifest {str(path)!r} needs one column 'path' or 'uri', it has {got}")


def _read_csv(path: Path) -> Iterator[_Row]:
    with path.open("rb") as file:
        lines = _decoded(path, file)
        header = next(lines, "")
        delimiter = max(_DELIMITERS, key=lambda mark: _fit(header, mark))
        columns = _split(header, delimiter)
        _check_columns(path, columns)
        reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
        start = 2
        try:
            for cells in reader:
                place, start = f"line {start}", reader.line_num + 2
                if len(cells) not in (0, len(columns)):
                    reason = f"cells: {len(cells)}, but the header has {len(columns)}"
                    raise _error(path, place, reason)
                if cells:
                    row = dict(zip(columns, cells, strict=True))
                    yield place, {name: _trimmed(name, row[name]) for name in _COLUMNS if name in row}
        except csv.Error as error:
            raise _error(path, f"line {start}", f"no valid CSV: {error}") from error


def _decoded(path: Path, file: Iterator[bytes]) -> Iterator[str]:
    for number, line in enumerate(file, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise _error(path, f"line {number}", "not UTF-8; save the manifest as UTF-8") from None


def _fit(header: str, delimiter: str) -> tuple[bool, int]:
    """How well a delimiter fits the header: whether it gives a column of paths, and the number of columns."""
    columns = _split(header, delimiter)
    return any(name in columns for name in _PLACES), len(columns)


def _split(header: str, delimiter: str) -> list[str]:
    cells = next(csv.reader([header], delimiter=delimiter, skipinitialspace=True), [])
    return [cell.strip().lower() for cell in cells]


def _read_parquet(path: Path) -> Iterator[_Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with path.open("rb") as file:
            table = pyarrow.parquet.ParquetFile(file)
            _check_columns(path, table.schema_arrow.names)
            wanted = [name for name in table.schema_arrow.names if name in _COLUMNS]
            number = 0
            for batch in table.iter_batches(batch_size=8192, columns=wanted):
                for row in batch.to_pylist():
                    number += 1
                    place = f"row {number}"
                    yield place, {name: _text(path, place, name, value) for name, value in row.items()}
    except pyarrow.ArrowException as error:
        raise InputError(
            f"manifest {str(path)!r} is no readable Parquet file: {first_line(error)}"
        ) from error


def _text(path: Path, place: str, column: str, value: Any) -> str:
    """A cell as text. A column of integers with missing ones may hold floats; these become integers again."""
    if column in _MASKS and value is not None and not isinstance(value, (str, float)):
        return ",".join(map(str, value)) if isinstance(value, list) else f"({type(value).__name__})"
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) or (isinstance(value, int) and column not in _PLACES):
        return _trimmed(column, str(value))
    raise _error(path, place, f"the {column} must be text, got {type(value).__name__}")


def _trimmed(column: str, text: str) -> str:
    """Without spaces around it, except for paths: the name of a file may end with a space."""
    return text if column in (*_PLACES, "mask") else text.strip()
