"""All rows in one table: CSV, JSON lines, Parquet. The rows of one part are in memory at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cfcam_gpu.dataset.exporters.settings import ExportSettings
from cfcam_gpu.dataset.store.atomic_files import atomic_file
from cfcam_gpu.dataset.store.results import Results
from cfcam_gpu.dataset.store.schema import COLUMNS, ColumnName, Row, arrow_schema

#: The columns of a CSV file, of which the box becomes four.
_PLAIN: list[ColumnName] = [name for name in COLUMNS if name != "grid"]
_EDGES = ("left", "top", "right", "bottom")


def write_csv(results: Results, destination: Path, _settings: ExportSettings) -> int:
    """Writes a CSV file in UTF-8 with a heading; returns the number of rows."""
    import pyarrow.csv

    empty = arrow_schema(results.map_shape).empty_table().select(_PLAIN)
    with (
        atomic_file(destination) as file,
        pyarrow.csv.CSVWriter(file, _with_edges(empty).schema) as writer,
    ):
        for table in results.tables(_PLAIN):
            writer.write_table(_with_edges(table))
    return len(results)


def _with_edges(table: pa.Table) -> pa.Table:
    """The table with the columns box_left, box_top, box_right and box_bottom in the place of box."""
    import pyarrow.compute as pc

    place = table.column_names.index("box")
    boxes = table["box"]
    table = table.remove_column(place)
    for i, edge in enumerate(_EDGES):
        table = table.add_column(place + i, f"box_{edge}", pc.list_element(boxes, i))
    return table


def write_jsonl(results: Results, destination: Path, _settings: ExportSettings) -> int:
    """Writes an object a line, with every column; returns the number of rows."""
    with atomic_file(destination) as file:
        for row in results.rows():
            file.write(_line(row))
    return len(results)


def _line(row: Row) -> bytes:
    values = {name: _json_value(row[name]) for name in COLUMNS}
    return f"{json.dumps(values, ensure_ascii=False, allow_nan=False)}\n".encode()


def _json_value(value: Any) -> Any:
    """A value as JSON has it; float32 numbers with the digits that tell them apart and no more."""
    if isinstance(value, np.ndarray):
        return value.astype(str).astype(float).tolist()
    if isinstance(value, list):
        return [_json_value(one) for one in value]
    if isinstance(value, float):
        return float(str(np.float32(value))) if np.isfinite(value) else None
    return value


def write_parquet(results: Results, destination: Path, _settings: ExportSettings) -> int:
    """Writes one Parquet file with every column, a row group for each part; returns the number of rows."""
    import pyarrow.parquet as pq

    schema = arrow_schema(results.map_shape)
    with atomic_file(destination) as file, pq.ParquetWriter(file, schema) as writer:
        for table in results.tables():
            writer.write_table(table.select(schema.names).cast(schema))
    return len(results)
