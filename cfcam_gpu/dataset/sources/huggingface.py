"""Data sets that `save_to_disk` of Hugging Face's `datasets` wrote, read with Arrow alone."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cfcam_gpu._utils.messages import printable
from cfcam_gpu._utils.places.place import Place
from cfcam_gpu._utils.regular_files import refuse_special
from cfcam_gpu.dataset.sources.labels import SEPARATOR
from cfcam_gpu.dataset.sources.repeated import Texts
from cfcam_gpu.dataset.sources.sample import Sample, clean_text, make_uri
from cfcam_gpu.errors import ImageError, InputError

if TYPE_CHECKING:
    import pyarrow

#: Columns that identify a row; the first of them that the data set has.
_IDS = ("sample_id", "image_id", "id")

#: Types of features that hold several values.
_LISTS = ("Sequence", "List", "LargeList")

#: The files by which `load_from_disk` recognises a data set, and one with splits.
_DATASET, _STATE, _SPLITS = "dataset_info.json", "state.json", "dataset_dict.json"


def is_saved_dataset(folder: Path) -> bool:
    """Whether `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote the folder.

    Example:
        >>> is_saved_dataset(Path("photos"))
        False
    """
    return os.path.isfile(folder / _SPLITS) or all(os.path.isfile(folder / n) for n in (_DATASET, _STATE))


def refuse_cache(folder: Path) -> None:
    """Raises InputError for a folder of the cache in which `datasets` keeps what it has downloaded."""
    if not os.path.isfile(folder / _DATASET) or os.path.isfile(folder / _STATE):
        return
    if any(name.endswith(".arrow") for name in os.listdir(folder)):
        raise InputError(
            f"folder {str(folder)!r} is of the cache of Hugging Face's datasets; load the data set and write it with "
            "save_to_disk, or give its Parquet files"
        )


def dataset_samples(folder: Path) -> list[Sample]:
    """One sample for each row; all splits of a data set with splits, in the order in which it lists them.

    Image: the column "image", else the first column of the type Image.
    Label: the column "label", else the first column of the type ClassLabel or of lists of it, as the name of its
    class, several with "|" between them; -1 is no label.
    Id: the column "sample_id", "image_id" or "id", else the file name that is stored with the image. Where
    these repeat or are missing it is the SHA-256 of the image's bytes, and all images are read once. The
    name of the split stands before it.

    Raises:
        InputError: the data set holds no rows or no column of images, or files are missing or damaged.
    """
    samples: list[Sample] = []
    for split in _splits(folder):
        samples += _split_samples(folder, split)
    if not samples:
        raise InputError(f"data set {str(folder)!r} holds no rows")
    return samples


def _splits(folder: Path) -> list[str]:
    if not os.path.isfile(folder / _SPLITS):
        return [""]
    splits = _read_json(folder / _SPLITS).get("splits")
    if not isinstance(splits, list) or not all(isinstance(split, str) for split in splits):
        raise InputError(f"{str(folder / _SPLITS)!r} must list the names of the splits")
    return splits


def _split_samples(folder: Path, split: str) -> list[Sample]:
    columns = image_columns(folder, _json_below(folder, split, _DATASET).get("features"))
    files = [os.path.join(split, name) for name in _data_files(folder, split)]
    parts = [_Part(folder, file, _open(folder, file), columns) for file in files]
    samples = []
    for part, row, label, name in zip(*_places(parts), _labels(parts), _names(parts), strict=True):
        sample_id = clean_text(f"{split}/{name}" if split else name)
        uri = make_uri("hf", str(folder.absolute()), part.file, columns.image, str(row))
        samples.append(Sample(sample_id, uri, label))
    return samples


def _data_files(folder: Path, split: str) -> list[str]:
    state = _json_below(folder, split, _STATE)
    if state.get("_indices_data_files"):
        raise InputError(
            f"data set {str(folder)!r} holds a selection by indices; save it again with save_to_disk"
        )
    files = state.get("_data_files")
    entries = files if isinstance(files, list) else [None]
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in entries]
    if not all(isinstance(name, str) for name in names):
        raise InputError(f"{str(folder / split / _STATE)!r} must list the data files")
    return [str(name) for name in names]


def _json_below(folder: Path, split: str, name: str) -> dict[str, Any]:
    return _read_json(_below(folder, os.path.join(split, name)))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        refuse_special(path)
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{str(path)!r} is no valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{str(path)!r} must hold a JSON object, got {type(content).__name__}")
    return content


def _below(folder: Path, name: str) -> Path:
    """The path of a file in the data set. Raises InputError for a name that leads out of its folder."""
    if os.path.isabs(name) or ".." in name.replace("\\", "/").split("/") or "\0" in name:
        raise InputError(f"data set {str(folder)!r} names the file {name!r}, which lies outside of it")
    return folder / name


@dataclass(frozen=True)
class Columns:
    """Names of the columns that are read, None for those that the data set lacks; `classes`: names of its classes."""

    image: str
    label: str | None
    classes: tuple[str, ...] | None
    sample_id: str | None


def image_columns(place: Path | Place, features: Any) -> Columns:
    """Which columns hold images, labels and ids, from the features of a data set.

    Args:
        place: the data set, for messages.
        features: name of a column -> {"_type": ...}, as `dataset_info.json` has them.

    Raises:
        InputError: there is no column of images.
    """
    entries = features.items() if isinstance(features, dict) else ()
    kinds = {str(name): _kind(feature) for name, feature in entries}
    image = _pick("image", [name for name, kind in kinds.items() if kind == "Image"])
    if image is None:
        listed = ", ".join(f"{name} ({kind})" for name, kind in kinds.items()) or "nothing"
        raise InputError(f"data set {str(place)!r} needs a column of the type Image, it has {listed}")
    plain = [name for name in ("label", "labels") if kinds.get(name) in ("Value", "list of Value")]
    classed = [name for name, kind in kinds.items() if kind in ("ClassLabel", "list of ClassLabel")]
    label = _pick("label", classed + plain)
    classes = _element(features[label]).get("names") if label else None
    sample_id = next((name for name in _IDS if kinds.get(name) == "Value"), None)
    return Columns(image, label, tuple(map(str, classes)) if isinstance(classes, list) else None, sample_id)


def _element(feature: Any) -> dict[str, Any]:
    """The feature itself, or that of a list's elements: {"_type": "List", "feature": ...} or [...]."""
    if isinstance(feature, list) and len(feature) == 1:
        feature = feature[0]
    elif isinstance(feature, dict) and feature.get("_type") in _LISTS:
        feature = feature.get("feature")
    return feature if isinstance(feature, dict) else {}


def _kind(feature: Any) -> str:
    element = _element(feature)
    kind = element.get("_type")
    if not isinstance(kind, str):
        return "unknown"
    return kind if element is feature else f"list of {kind}"


def _pick(wanted: str, names: list[str]) -> str | None:
    return wanted if wanted in names else next(iter(names), None)


@dataclass(frozen=True)
class _Part:
    """One data file of a split."""

    folder: Path
    file: str
    table: pyarrow.Table
    columns: Columns

    def values(self, column: str, child: str | None = None) -> Iterator[Any]:
        """The values of a column, or of a field (`child`) of a column of structures, one at a time."""
        import pyarrow.compute

        try:
            values = self.table.column(column)
            if child is not None:
                values = pyarrow.compute.struct_field(values, child)
        except (pyarrow.ArrowException, KeyError, TypeError) as error:
            what = column if child is None else f"{column}.{child}"
            raise InputError(f"data file {str(self.folder / self.file)!r} has no column {what}") from error
        return (value.as_py() for value in values)


def _places(parts: list[_Part]) -> tuple[list[_Part], list[int]]:
    """For every sample its data file, and its row in it."""
    places = [(part, row) for part in parts for row in range(part.table.num_rows)]
    return [part for part, _ in places], [row for _, row in places]


def _labels(parts: list[_Part]) -> Iterator[str | None]:
    for part in parts:
        label, classes = part.columns.label, part.columns.classes
        if label is None:
            yield from [None] * part.table.num_rows
        else:
            yield from (label_of(value, classes) for value in part.values(label))


def label_of(value: Any, classes: tuple[str, ...] | None) -> str | None:
    """A label as text, with the names of the classes for their indices; several with "|" between them.

    Example:
        >>> label_of(1, ("cat", "dog")), label_of([0, 1], ("cat", "dog")), label_of(-1, ("cat", "dog"))
        ('dog', 'cat|dog', None)
    """
    if isinstance(value, (list, tuple)):
        return SEPARATOR.join(filter(None, (label_of(one, classes) for one in value))) or None
    if value is None or (classes and value == -1):
        return None
    named = classes and isinstance(value, int) and 0 <= value < len(classes)
    return clean_text(classes[value] if classes and named else str(value))


def _names(parts: list[_Part]) -> list[str]:
    """A different name for each row: its id, the file name of its image or a digest of its image."""
    if not parts:
        return []
    columns = parts[0].columns
    sources = [(columns.sample_id, None)] if columns.sample_id else []
    for column, child in [*sources, (columns.image, "path")]:
        names = [value for part in parts for value in part.values(str(column), child)]
        if are_names(names.__iter__):
            return [str(name) for name in names]
    return numbered([digest(value) for part in parts for value in part.values(columns.image, "bytes")])


def are_names(values: Callable[[], Iterable[Any]]) -> bool:
    """Whether the values name rows: each is there, and no two are equal.

    Args:
        values: gives the values whenever it is called.
    """
    return all(name not in (None, "") for name in values()) and not Texts(lambda: map(str, values())).repeat


def digest(content: bytes | None) -> str:
    """A name for an image, made of its bytes."""
    return hashlib.sha256(content or b"").hexdigest()[:20]


def numbered(names: list[str]) -> list[str]:
    """Names of which equal ones (of equal images) are told apart by a number."""
    counts: Counter[str] = Counter()
    numbered = []
    for name in names:
        counts[name] += 1
        numbered.append(name if counts[name] == 1 else f"{name}-{counts[name]}")
    return numbered


def _open(folder: Path, file: str) -> pyarrow.Table:
    """The table of a data file, mapped into memory: only what is used is read.

    Raises:
        InputError: the file lies outside the folder, is missing or damaged.
    """
    import pyarrow

    path = _below(folder, file)
    try:
        refuse_special(path)
        with pyarrow.memory_map(str(path)) as source:
            table = pyarrow.ipc.open_stream(source).read_all()
            # Reading a value of a damaged table may end the process.
            table.validate(full=True)
            return table
    except (OSError, pyarrow.ArrowException, ValueError, TypeError) as error:
        reason = printable(" ".join(str(error).split())) or type(error).__name__
        raise InputError(f"data file {str(path)!r} cannot be read: {reason}") from error


@lru_cache(maxsize=8)
def _opened(folder: str, file: str) -> pyarrow.Table:
    return _open(Path(folder), file)


def read_cell(folder: str, file: str, column: str, row: str) -> bytes:
    """The bytes of the image that an "hf:" URI names.

    Raises:
        ImageError: the file or the cell does not exist, or the data set holds only the path of the image.
    """
    try:
        cell = _opened(folder, file).column(column)[int(row)].as_py()
    except InputError as error:
        raise ImageError(str(error)) from error
    except (LookupError, ValueError) as error:
        raise ImageError(f"the data file has no row {row} or no column {column!r}") from error
    if not isinstance(cell, dict) or not isinstance(cell.get("bytes"), bytes):
        raise ImageError(
            "the data set does not hold the image itself; save it again with its images embedded"
        )
    return cell["bytes"]
