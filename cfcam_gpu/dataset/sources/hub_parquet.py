"""Parquet files with the images in them, as the Hugging Face Hub has them: image {bytes, path}, label."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from cfcam_gpu._utils.messages import printable
from cfcam_gpu._utils.places.masking import hidden
from cfcam_gpu._utils.places.place import Place
from cfcam_gpu._utils.places.schemes import is_url
from cfcam_gpu.dataset.sources.huggingface import are_names, digest, image_columns, label_of, numbered
from cfcam_gpu.dataset.sources.sample import Sample, clean_text, make_uri
from cfcam_gpu.errors import ImageError, InputError


def is_hub_parquet(path: Path | Place) -> bool:
    """Whether a Parquet file has a column of images: structures with the fields bytes and path.

    Example:
        >>> is_hub_parquet(Path("cat.png"))
        False
    """
    if path.suffix.lower() != ".parquet" or (isinstance(path, Path) and not path.is_file()):
        return False
    import pyarrow.parquet

    try:
        with _opened(path) as file:
            return any(_holds_images(field.type) for field in file.schema_arrow)
    except (pyarrow.ArrowException, OSError, ValueError):  # reading it as a manifest tells
        return False


def _holds_images(kind: Any) -> bool:
    import pyarrow

    return bool(pyarrow.types.is_struct(kind) and {"bytes", "path"} <= {field.name for field in kind})


def hub_samples(path: Path | Place, name: str) -> list[Sample]:
    """One sample for each row, with its image, label and id as in `huggingface.dataset_samples`.

    Args:
        name: with which the ids begin.

    Raises:
        InputError: the file is damaged or holds no rows.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        with _opened(path) as file:
            columns = image_columns(path, _features(file.schema_arrow))
            groups = range(file.num_row_groups)
            places = [(g, row) for g in groups for row in range(file.metadata.row_group(g).num_rows)]
            labels = _values(file, columns.label) if columns.label else [None] * len(places)
            ids = _values(file, columns.sample_id) if columns.sample_id else []
            names = ids if are_names(ids.__iter__) and ids else _values(file, columns.image, "path")
            if not are_names(names.__iter__):
                names = numbered([digest(value) for value in _values(file, columns.image, "bytes")])
    except (pyarrow.ArrowException, OSError, ValueError, TypeError, LookupError) as error:
        reason = printable(" ".join(str(error).split())) or type(error).__name__
        raise InputError(f"Parquet file {str(path)!r} cannot be read: {reason}") from error
    if not places:
        raise InputError(f"Parquet file {str(path)!r} holds no rows")
    place = hidden(path.url) if isinstance(path, Place) else str(path.absolute())
    return [
        Sample(
            clean_text(f"{name}/{row_name}"),
            make_uri("parquet", place, columns.image, str(group), str(row)),
            label_of(label, columns.classes),
        )
        for (group, row), row_name, label in zip(places, names, labels, strict=True)
    ]


@contextmanager
def _opened(path: Path | Place) -> Iterator[Any]:
    """A Parquet file; of one at a URL only what is read is fetched."""
    import pyarrow.parquet

    source = path.open_random() if isinstance(path, Place) else path
    try:
        with pyarrow.parquet.ParquetFile(source) as file:
            yield file
    finally:
        if not isinstance(source, Path):
            source.close()


def _features(schema: Any) -> dict[str, Any]:
    """The features that `datasets` stored in the schema; else those that the types of the columns show."""
    try:
        stored = json.loads((schema.metadata or {}).get(b"huggingface", b"null"))["info"]["features"]
    except (ValueError, LookupError, TypeError, RecursionError):
        stored = None
    if isinstance(stored, dict) and any(_is_image(feature) for feature in stored.values()):
        return stored
    return {field.name: _feature(field.type) for field in schema}


def _feature(kind: Any) -> dict[str, Any]:
    import pyarrow

    if _holds_images(kind):
        return {"_type": "Image"}
    value = {"_type": "Value"}
    return {"_type": "List", "feature": value} if pyarrow.types.is_list(kind) else value


def _is_image(feature: Any) -> bool:
    return isinstance(feature, dict) and feature.get("_type") == "Image"


def _values(file: Any, column: str, child: str | None = None) -> list[Any]:
    name = column if child is None else f"{column}.{child}"
    values: list[Any] = []
    for batch in file.iter_batches(batch_size=1024, columns=[name]):
        batch.validate(full=True)
        for value in batch.column(0).to_pylist():
            values.append(value if child is None else (value or {}).get(child))
    check_rows(file, len(values), name)
    return values


def check_rows(file: Any, count: int, column: str) -> None:
    """Raises ArrowInvalid where a column of a Parquet file gave fewer rows than there are: damaged pages do."""
    import pyarrow

    rows = sum(file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))
    if count != rows:
        raise pyarrow.ArrowInvalid(f"it is damaged: column {column!r} holds {count:,} of {rows:,} rows")


@lru_cache(maxsize=1)
def _group(path: str, column: str, group: int) -> Any:
    """The images of one row group: workers read its rows one after the other."""
    with _opened(Place(path) if is_url(path) else Path(path)) as file:
        table = file.read_row_group(group, columns=[f"{column}.bytes"])
    table.validate(full=True)
    return table.column(0)


def read_parquet_cell(path: str, column: str, group: str, row: str) -> bytes:
    """The bytes of the image that a "parquet:" URI names.

    Raises:
        ImageError: the file or the cell does not exist or is damaged, or there is only the path of the image.
    """
    import pyarrow

    try:
        cell = _group(path, column, int(group))[int(row)].as_py()
    except (pyarrow.ArrowException, OSError, LookupError, ValueError) as error:
        reason = printable(" ".join(str(error).split())) or type(error).__name__
        raise ImageError(f"the Parquet file cannot be read: {reason}") from error
    content = cell.get("bytes") if isinstance(cell, dict) else None
    if not isinstance(content, bytes):
        raise ImageError("the Parquet file does not hold the image itself, only its path")
    return content
