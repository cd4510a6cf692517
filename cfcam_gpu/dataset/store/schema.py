"""One row of a result: its columns, their Arrow types, and the way from rows to tables and back.

A dataset run stores one row for each sample, or one for each explained class of a sample. `Row` is the one place that
lists the columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypedDict, cast, get_args, get_type_hints

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cfcam_gpu.dataset.store.arrays import arrow_array, fixed_size_lists

#: The name of a column, so that mypy finds a misspelt one where code lists columns.
ColumnName = Literal[
    "sample_id", "uri", "status", "stage", "error_type", "message", "label", "target", "target_name",
    "target_prob", "pred", "pred_name", "prob", "n_clusters", "noise_fraction", "blank", "grid", "heatmap_max",
    "width", "height", "box", "overlay", "decoding",
]  # fmt: skip

_TEXT, _WHOLE, _NUMBER, _YES_NO = pa.string(), pa.int32(), pa.float32(), pa.bool_()

#: Stands for the type of the maps, which depends on their shape.
_MAP = pa.null()


class Row(TypedDict, total=False):
    """What is stored of one sample, in the order of the stored columns; each with its Arrow type.

    Of a sample with several explained classes there is a row for each, one after the other; they differ in the columns
    `OF_TARGET`.

    A column is absent from a row that was read without it, and null (None) in a table where a row to be
    written lacks it. The first three are never null. The columns from `target` to `heatmap_max` are null where
    the sample failed before it had a map; from `width` on see each.

    Attributes:
        sample_id: the sample's id, unique in the run.
        uri: where its image lies, for `open_image`.
        status: `ok`, or `error` where the sample could not be read, decoded, explained or its overlay written.
        stage: where it failed: `read`, `decode`, `mask`, `explain` or `write`; null where the status is ok.
        error_type: class of the exception; null where the status is ok.
        message: why it failed, for people; null where the status is ok.
        label: the true class as the input gives it, an index or a name; null where it gives none.
        target: index of the explained class.
        target_name: its name; null also where the model's classes have no names.
        target_prob: its probability by the model's softmax or sigmoid, 0 to 1.
        pred: index of the predicted class.
        pred_name: its name; null also where the model's classes have no names.
        prob: its probability, 0 to 1.
        n_clusters: number of clusters of channels; null also for methods other than CF-CAM.
        noise_fraction: fraction (0 to 1) of the clustered channels that are in no cluster; null also for
            methods other than CF-CAM.
        blank: whether the map is zero everywhere.
        grid: saliency map (h, w) at the layer's resolution, raw scale, not negative.
        heatmap_max: maximum of the grid upsampled to the model's input size, raw scale: what its heatmap was
            divided by.
        width: width of the upright original, pixels; null where it was not decoded.
        height: its height, pixels; null where it was not decoded.
        box: left, upper, right, lower edge of what the model saw of the original, pixels; may reach beyond the
            original; null where it was not decoded.
        overlay: path of the picture below the output folder; null where none was written.
        decoding: choices made in decoding, such as the window of a DICOM file; null where there were none.

    Example:
        >>> row: Row = {"sample_id": "cat.jpg", "uri": "/photos/cat.jpg", "status": "ok", "blank": False}
        >>> [name for name in COLUMNS if name in row]
        ['sample_id', 'uri', 'status', 'blank']
    """

    sample_id: Annotated[str, _TEXT]
    uri: Annotated[str, _TEXT]
    status: Annotated[str, _TEXT]
    stage: Annotated[str | None, _TEXT]
    error_type: Annotated[str | None, _TEXT]
    message: Annotated[str | None, _TEXT]
    label: Annotated[str | None, _TEXT]
    target: Annotated[int | None, _WHOLE]
    target_name: Annotated[str | None, _TEXT]
    target_prob: Annotated[float | None, _NUMBER]
    pred: Annotated[int | None, _WHOLE]
    pred_name: Annotated[str | None, _TEXT]
    prob: Annotated[float | None, _NUMBER]
    n_clusters: Annotated[int | None, _WHOLE]
    noise_fraction: Annotated[float | None, _NUMBER]
    blank: Annotated[bool | None, _YES_NO]
    grid: Annotated[npt.NDArray[np.float32] | None, _MAP]
    heatmap_max: Annotated[float | None, _NUMBER]
    width: Annotated[int | None, _WHOLE]
    height: Annotated[int | None, _WHOLE]
    box: Annotated[list[float] | None, pa.list_(_NUMBER, 4)]
    overlay: Annotated[str | None, _TEXT]
    decoding: Annotated[str | None, _TEXT]


class SampleRow(Row, total=False):
    """All rows of a sample in one: that of its first explained class, and what is different for the others.

    Attributes:
        others: `OF_TARGET`'s columns of the other explained classes; absent where there are none.
    """

    others: list[Row]


#: Columns that differ between the rows of one sample.
OF_TARGET: tuple[ColumnName, ...] = (
    "target", "target_name", "target_prob", "blank", "grid", "heatmap_max", "overlay",
)  # fmt: skip


def rows_of_sample(sample: Row) -> list[Row]:
    """The stored rows of a sample, one for each explained class.

    Example:
        >>> rows_of_sample({"sample_id": "a", "target": 3, "overlay": "a_3.png", "others": [{"target": 7}]})
        [{'sample_id': 'a', 'target': 3, 'overlay': 'a_3.png'}, {'sample_id': 'a', 'target': 7}]
    """
    if "others" not in sample:
        return [sample]
    first = {name: value for name, value in sample.items() if name != "others"}
    shared = {name: value for name, value in first.items() if name not in OF_TARGET}
    return [cast(Row, first), *(cast(Row, {**shared, **other}) for other in others_of(sample))]


def others_of(sample: Row) -> list[Row]:
    """What is different in the rows of a sample's other explained classes; see `SampleRow`."""
    return cast(SampleRow, sample).get("others", [])


def samples_of_rows(rows: Sequence[Row]) -> list[Row]:
    """The reverse of `rows_of_sample`, for the rows of many samples in their order.

    Example:
        >>> samples_of_rows([{"sample_id": "a", "target": 3}, {"sample_id": "a", "target": 7}, {"sample_id": "b"}])
        [{'sample_id': 'a', 'target': 3, 'others': [{'target': 7}]}, {'sample_id': 'b'}]
    """
    samples: list[Row] = []
    for row in rows:
        if not samples or row["sample_id"] != samples[-1]["sample_id"]:
            samples.append(row)
            continue
        other = cast(Row, {name: value for name, value in row.items() if name in OF_TARGET})
        cast(SampleRow, samples[-1]).setdefault("others", []).append(other)
    return samples


def is_first_row(sample_ids: Sequence[str]) -> npt.NDArray[np.bool_]:
    """(n,) bool: whether a row is the first of its sample, of the ids of consecutive rows.

    Example:
        >>> is_first_row(["a", "a", "b"]).tolist()
        [True, False, True]
    """
    pairs = zip([None, *sample_ids], sample_ids, strict=False)
    return np.array([before != sample for before, sample in pairs], bool)


def has_several_targets(run: Mapping[str, Any]) -> bool:
    """Whether a run explains several classes of a sample, so that it may have several rows; `run`: run.json.

    Example:
        >>> has_several_targets({"fingerprint": {"target": [3, 7]}}), has_several_targets({})
        (True, False)
    """
    fingerprint = run.get("fingerprint") or {}
    several = isinstance(fingerprint.get("target"), (list, str))  # a text: by the label, see `ByLabel`
    return several or any(fingerprint.get(name) is not None for name in ("top_k", "multi_label"))


def target_name(name: str, target: int | None) -> str:
    """A sample's name, with its explained class in a run that explains several classes of a sample.

    Example:
        >>> target_name("x/a", 7), target_name("x/a", None)
        ('x/a_class7', 'x/a')
    """
    return name if target is None else f"{name}_class{target}"


_TYPES: dict[ColumnName, pa.DataType] = {
    cast(ColumnName, name): get_args(hint)[-1]
    for name, hint in get_type_hints(Row, include_extras=True).items()
}

#: The columns in the order in which they are stored.
COLUMNS: tuple[ColumnName, ...] = tuple(_TYPES)


def _column_type(name: ColumnName, map_shape: tuple[int, int]) -> pa.DataType:
    """The Arrow type of a column where the maps have the shape (h, w)."""
    return pa.fixed_shape_tensor(pa.float32(), map_shape) if name == "grid" else _TYPES[name]


def arrow_schema(map_shape: tuple[int, int], columns: Sequence[ColumnName] = COLUMNS) -> pa.Schema:
    """The Arrow schema of a part whose maps have the shape (h, w).

    Example:
        >>> arrow_schema((7, 7), ["sample_id", "prob"])
        sample_id: string
        prob: float
    """
    return pa.schema([(name, _column_type(name, map_shape)) for name in columns])


def rows_to_table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as an Arrow table of a schema, which may have other columns than `Row`; what a row lacks is null.

    `grid` holds arrays (h, w) float32 or None and becomes a column of fixed-shape tensors.

    Example:
        >>> table = rows_to_table([{"sample_id": "a", "prob": 0.5}, {"sample_id": "b"}],
        ...                       arrow_schema((7, 7), ["sample_id", "prob"]))
        >>> table["prob"].to_pylist()
        [0.5, None]
    """
    columns = _columns(rows)
    nothing = (None,) * len(rows)
    arrays = [
        (_tensors if field.name == "grid" else arrow_array)(columns.get(field.name, nothing), field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, Sequence[Any]]:
    """The rows turned over: for each name in one of them the values of all, None where a row lacks it."""
    names = dict.fromkeys(name for keys in {tuple(row) for row in rows} for name in keys)
    if rows and all(tuple(row) == tuple(names) for row in rows):  # nearly always; a quarter of the time
        return dict(zip(names, zip(*(row.values() for row in rows), strict=True), strict=True))
    return {name: [row.get(name) for row in rows] for name in names}


def table_to_rows(table: pa.Table) -> list[Row]:
    """The reverse of `rows_to_table`; the rows lack the columns that the table lacks.

    Example:
        >>> schema = arrow_schema((1, 2), ["sample_id", "grid"])
        >>> maps = np.float32([[3, 4]])
        >>> table_to_rows(rows_to_table([{"sample_id": "a", "grid": maps}], schema))
        [{'sample_id': 'a', 'grid': array([[3., 4.]], dtype=float32)}]
    """
    others = [name for name in table.column_names if name != "grid"]
    rows: list[Row] = table.select(others).to_pylist() if others else [{} for _ in range(len(table))]
    if "grid" in table.column_names:
        for row, grid in zip(rows, table_maps(table), strict=True):
            row["grid"] = grid
    return rows


def table_maps(table: pa.Table) -> list[npt.NDArray[np.float32] | None]:
    """The maps in the column `grid`, (h, w) float32 at raw scale each; None where a row has none.

    Example:
        >>> row = {"grid": np.zeros((2, 3), np.float32)}
        >>> table = rows_to_table([row, {}], arrow_schema((2, 3), ["grid"]))
        >>> [None if grid is None else grid.shape for grid in table_maps(table)]
        [(2, 3), None]
    """
    maps: list[npt.NDArray[np.float32] | None] = []
    for chunk in table.column("grid").chunks:
        storage, shape = chunk.storage, tuple(chunk.type.shape)
        cells = shape[0] * shape[1]
        values = storage.values.slice(storage.offset * cells, len(storage) * cells)
        blocks = values.to_numpy(zero_copy_only=False).reshape(len(storage), *shape)
        valid = storage.is_valid().to_pylist()
        maps += [block if ok else None for block, ok in zip(blocks, valid, strict=True)]
    return maps


def _tensors(maps: Sequence[npt.NDArray[np.float32] | None], kind: pa.FixedShapeTensorType) -> pa.Array:
    h, w = kind.shape
    values = np.zeros((len(maps), h * w), np.float32)
    for line, grid in zip(values, maps, strict=True):
        if grid is not None:
            line[:] = grid.reshape(-1)
    present = [grid is not None for grid in maps]
    return pa.ExtensionArray.from_storage(kind, fixed_size_lists(values, present))
