"""Manifests: tables with one row for each image, in CSV, JSON Lines or Parquet, and plain lists of paths.

Columns: `path` or `uri`; optional are `sample_id`, `label`, `target`, and where the object is: `mask`
(path of an image) or `box` (x0,y0,x1,y1 in pixels). Other columns are ignored.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from cfcam_gpu._utils.messages import first_line, printable
from cfcam_gpu._utils.places.masking import hidden, masked
from cfcam_gpu._utils.places.place import Place
from cfcam_gpu._utils.places.schemes import is_url
from cfcam_gpu.dataset.sources.columns import ColumnSource
from cfcam_gpu.dataset.sources.hub_parquet import check_rows
from cfcam_gpu.dataset.sources.labels import label_text, target_text, with_whole_numbers
from cfcam_gpu.dataset.sources.manifest_paths import resolve_path, resolve_uri
from cfcam_gpu.dataset.sources.masks import box_mask
from cfcam_gpu.dataset.sources.names import IMAGE_SUFFIXES, is_plain
from cfcam_gpu.dataset.sources.repeated import repeated
from cfcam_gpu.dataset.sources.sample import Sample, clean_text, make_uri, split_uri
from cfcam_gpu.dataset.sources.spool import SpooledSamples
from cfcam_gpu.dataset.sources.text_tables import (
    Line,
    error_at,
    first_path,
    read_csv,
    read_json_lines,
    read_list,
)
from cfcam_gpu.errors import InputError

#: Extensions of tables and of lists.
_TABLES, _LISTS = frozenset((".csv", ".tsv", ".parquet", ".jsonl", ".ndjson")), frozenset((".txt", ".lst"))

#: How much of a text file tells whether it is a list of paths.
_HEAD = 1 << 16

#: How the URI of a row with a mistake begins.
_MISTAKE = "broken:"

_PLACES = ("path", "uri")
_MASKS = ("mask", "box")
_CLASSES = {"label": label_text, "target": target_text}
_COLUMNS = (*_PLACES, "sample_id", *_CLASSES, *_MASKS)


def is_manifest(path: Path | Place) -> bool:
    """Whether a file is a table or a list of paths: by its extension, a text file also by its first line.

    Example:
        >>> is_manifest(Path("train.csv")), is_manifest(Path("cat.png"))
        (True, False)
    """
    suffix = path.suffix.lower()
    is_text = suffix in _LISTS and (isinstance(path, Place) or os.path.isfile(path))
    return suffix in _TABLES or (is_text and _lists_paths(path))


def _lists_paths(path: Path | Place) -> bool:
    try:
        if isinstance(path, Place):
            head = path.read(0, _HEAD)
        else:
            with path.open("rb") as file:
                head = file.read(_HEAD)
    except OSError:
        return False
    lines = map(str.strip, head.decode("utf-8-sig", "replace").splitlines())
    text = first_path(next(filter(None, lines), ""))
    suffix = Place(text).suffix if is_url(text) else PurePosixPath(text.replace("\\", "/")).suffix
    if suffix.lower() in IMAGE_SUFFIXES or isinstance(path, Place):
        return suffix.lower() in IMAGE_SUFFIXES
    return "\0" not in text and text != "" and os.path.isfile(path.parent / text)


def manifest_samples(path: Path | Place, path_column: str | None = None) -> ColumnSource:
    """One sample for each row, in the manifest's order; in memory are 8 bytes for each.

    Relative paths begin in the manifest's folder and must not leave it; URLs are read where they are. A manifest at
    a URL names nothing else: a path of this machine in it makes a sample that fails. Whether the files exist is not
    checked here: decoding them reports it. A path that does not exist as it is written, but without spaces around it,
    with its backslashes as slashes or its accents composed otherwise, is that file's. Without `sample_id` the id is the
    path or URI as it was written. Empty cells count as missing. A row with a mistake in a cell makes a sample that
    fails; a mistake in a mask or box becomes a `broken:` mask, since it concerns only runs that use masks.

    Args:
        path: a file for which `is_manifest` holds.
        path_column: the column with the paths of the images; None: `path` or `uri`.

    Raises:
        InputError: the manifest cannot be read or has no rows, a column is missing or occurs twice, a row has other
            columns than the header or the sample_id of another row, or every row has a mistake.

    Example:
        >>> import tempfile
        >>> manifest = Path(tempfile.mkdtemp()) / "photos.csv"
        >>> _ = manifest.write_text("path,label\\ncat.jpg,cat\\n")
        >>> [(sample.sample_id, sample.label) for sample in manifest_samples(manifest)]
        [('cat.jpg', 'cat')]
    """
    if isinstance(path, Path) and os.path.exists(path) and not os.path.isfile(path):
        raise InputError(f"manifest {str(path)!r} is not a regular file; give a file on disk")
    hashes = array("q")
    try:
        samples = SpooledSamples(_hashed(_samples(path, path_column), hashes))
        several = repeated(np.array(hashes, np.int64))
        if len(several):
            _refuse_repeated(path, _samples(path, path_column), set(several.tolist()))
    except OSError as error:
        reason = error.strerror or printable(" ".join(str(error).split()))
        raise InputError(f"manifest {str(path)!r} cannot be read: {reason}") from error
    if not len(samples):
        raise InputError(f"manifest {str(path)!r} holds no rows")
    _refuse_only_mistakes(path, samples, _samples(path, path_column))
    return with_whole_numbers(samples)


#: Where a row is, for messages, and its sample.
_Row = tuple[str, Sample]


def _samples(path: Path | Place, path_column: str | None) -> Iterator[_Row]:
    absolute = path.absolute() if isinstance(path, Path) else path
    for place, row in _rows(path, path_column):
        yield place, _sample(path, absolute, place, row)


def _hashed(rows: Iterable[_Row], hashes: array[int]) -> Iterator[Sample]:
    """The samples; the hashes of their ids are appended."""
    for _, sample in rows:
        hashes.append(hash(sample.sample_id))
        yield sample


def _refuse_only_mistakes(path: Path | Place, samples: SpooledSamples, rows: Iterator[_Row]) -> None:
    """Raises InputError with the first row's mistake if every row has one."""
    if all(uri.startswith(_MISTAKE) for piece in samples.pieces("uri") for uri in piece["uri"]):
        place, sample = next(rows)
        raise error_at(path, place, split_uri(sample.uri)[1][1])


def _refuse_repeated(path: Path | Place, rows: Iterable[_Row], hashes: Container[int]) -> None:
    """Raises InputError for the first id that two rows have, among those with these hashes."""
    places: dict[str, str] = {}
    for place, sample in rows:
        if hash(sample.sample_id) in hashes and places.setdefault(sample.sample_id, place) != place:
            raise error_at(
                path,
                place,
                f"sample_id {sample.sample_id!r} was given in {places[sample.sample_id]} already; several rows for "
                "one image need a column sample_id that tells them apart",
            )


def _rows(path: Path | Place, path_column: str | None) -> Iterator[Line]:
    """Where each row is, for messages, and its cells by column; the paths are in `path`."""
    suffix = path.suffix.lower()
    wanted = None if path_column is None else path_column.strip().lower()

    def check(path: Path | Place, columns: list[str]) -> None:
        _check_columns(path, columns, wanted)

    if suffix == ".parquet":
        rows = _read_parquet(path, wanted)
    elif suffix in _LISTS:
        rows = read_list(path)
    elif suffix in (".jsonl", ".ndjson"):
        rows = read_json_lines(path, check)
    else:
        rows = read_csv(path, _PLACES if wanted is None else (wanted,), check)
    for place, row in rows:
        if wanted is not None and suffix not in _LISTS:
            others = {name: cell for name, cell in row.items() if name not in _PLACES}
            row = {**others, "path": row.get(wanted)}
        yield place, {name: row[name] for name in _COLUMNS if name in row}


def _sample(manifest: Path | Place, absolute: Path | Place, place: str, row: Mapping[str, Any]) -> Sample:
    column = "uri" if "uri" in row else "path"
    try:
        if all(row.get(name) for name in _PLACES):
            raise ValueError("there are a path and a uri; leave one empty")
        cells = {name: _text(name, cell) for name, cell in row.items()}
        uri, mistake = _uri(absolute, column, cells.get(column, "")), None
    except ValueError as error:
        cells, uri, mistake = _cells_without_mistakes(row), "", str(error)
    text = cells.get(column)
    sample_id = clean_text(cells.get("sample_id") or (_id_of(text) if text else place))
    if mistake is not None:
        # Named without its line, which rows above may move: a run that goes on compares URIs.
        uri = make_uri("broken", masked(f"{manifest}: {sample_id}"), masked(mistake))
    mask = _mask(manifest, place, cells)
    return Sample(sample_id, uri, cells.get("label") or None, cells.get("target") or None, mask=mask)


def _uri(manifest: Path | Place, column: str, text: str) -> str:
    """The URI of a row's image. Raises ValueError for a cell that names none."""
    if not text:
        raise ValueError(f"the {column} is empty")
    try:
        return resolve_uri(manifest, text) if column == "uri" else resolve_path(manifest, text)
    except ValueError as error:
        raise ValueError(f"{column} {text[:200]!r} {error}") from None


def _cells_without_mistakes(row: Mapping[str, Any]) -> dict[str, str]:
    cells = {}
    for name, cell in row.items():
        with suppress(ValueError):
            cells[name] = _text(name, cell)
    return cells


def _mask(manifest: Path | Place, place: str, row: Mapping[str, str]) -> str | None:
    texts = {column: row[column] for column in _MASKS if row.get(column)}
    if not texts:
        return None
    where = masked(f"manifest {str(manifest)!r}, {place}")
    if len(texts) > 1:
        return make_uri("broken", where, "there are a mask and a box; leave one empty")
    for column, text in texts.items():
        try:
            return box_mask(text) if column == "box" else resolve_path(manifest, text)
        except ValueError as error:
            return make_uri("broken", where, masked(f"{column} {text[:80]!r} {error}"))
    return None


def _id_of(text: str) -> str:
    """The id of a sample that has no other: its path, or its URL without credentials."""
    if is_plain(text):
        return text
    return hidden(text.strip()) if is_url(text.strip()) else PurePosixPath(text).as_posix()


def _check_columns(path: Path | Place, columns: list[str], path_column: str | None = None) -> None:
    repeated = [name for name in (*_COLUMNS, path_column) if columns.count(str(name)) > 1]
    if repeated:
        raise InputError(f"manifest {str(path)!r} has the column {repeated[0]!r} more than once")
    got = ", ".join(map(repr, columns)) or "nothing"
    if path_column is not None:
        if path_column not in columns:
            raise InputError(f"manifest {str(path)!r} has no column {path_column!r}, only {got}")
        return
    places = [name for name in _PLACES if name in columns]
    if len(places) > 1:
        raise InputError(f"manifest {str(path)!r} needs one column 'path' or 'uri', it has both")
    if not places:
        raise InputError(
            f"manifest {str(path)!r} needs one column 'path' or 'uri', it has only {got}; --path-column names another"
        )


def _read_parquet(path: Path | Place, path_column: str | None) -> Iterator[Line]:
    import pyarrow
    import pyarrow.parquet

    try:
        with path.open("rb") as file:
            table = pyarrow.parquet.ParquetFile(file)
            names = {name.strip().lower(): name for name in reversed(table.schema_arrow.names)}
            _check_columns(path, [name.strip().lower() for name in table.schema_arrow.names], path_column)
            wanted = [name for name in names if name in _COLUMNS or name == path_column]
            number = 0
            for batch in table.iter_batches(batch_size=8192, columns=[names[name] for name in wanted]):
                columns = [_values(batch.column(names[name])) for name in wanted]
                for values in zip(*columns, strict=True):
                    number += 1
                    yield f"row {number}", dict(zip(wanted, values, strict=True))
            check_rows(table, number, wanted[0])
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise InputError(
            f"manifest {str(path)!r} is no readable Parquet file: {printable(first_line(error))}"
        ) from error


def _values(column: Any) -> list[Any]:
    """The values of an Arrow column; bytes are texts, and those that are not UTF-8 are kept as Python keeps paths'."""
    import pyarrow

    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    binary = {pyarrow.string(): pyarrow.binary(), pyarrow.large_string(): pyarrow.large_binary()}.get(
        column.type
    )
    values = (column if binary is None else column.cast(binary)).to_pylist()
    return [os.fsdecode(value) if isinstance(value, bytes) else value for value in values]


def _text(column: str, value: Any) -> str:
    """A cell as text. A column of integers with missing ones may hold floats; these become integers again.

    Raises:
        ValueError: no such cell can be in the column.
    """
    if value is None or value != value:
        return ""
    if column in _CLASSES:
        try:
            return _CLASSES[column](value) or ""
        except ValueError as error:
            raise ValueError(f"the {column} {error}") from None
    if column in _MASKS and not isinstance(value, (str, float)):
        return ",".join(map(str, value)) if isinstance(value, list) else f"({type(value).__name__})"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) or (isinstance(value, int) and column not in _PLACES):
        return _trimmed(column, str(value))
    raise ValueError(f"the {column} must be text, got {type(value).__name__}")


def _trimmed(column: str, text: str) -> str:
    """Without spaces around it, except for paths: the name of a file may end with a space."""
    return text if column in (*_PLACES, "mask") else clean_text(text.strip())
