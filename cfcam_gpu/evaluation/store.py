"""The output folder of an evaluation: one row for each image and method.

OUT/evaluation.json             fingerprint, shapes, and information for people
OUT/plan.parquet                the samples in order, as in a dataset run
OUT/shards/part-NNNNN.parquet   the rows of a part, also for failed samples
OUT/cost/share-N.json           images per second of each method, measured by the process of rank N
OUT/metrics.parquet             all rows, once every part is finished; what follows is made from them
OUT/summary.json, OUT/plots/*.png, OUT/report.html
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cfcam_gpu._utils.messages import first_line
from cfcam_gpu.dataset.store.atomic_files import atomic_file
from cfcam_gpu.dataset.store.mirror import Mirror
from cfcam_gpu.dataset.store.plan import Plan
from cfcam_gpu.dataset.store.schema import ColumnName, Row, arrow_schema, rows_to_table, table_to_rows
from cfcam_gpu.dataset.store.store import OtherKind, Store
from cfcam_gpu.errors import StoreError
from cfcam_gpu.metrics.base import Column

#: Columns of an image before and after the column `masked`. They are the same in the rows of all methods.
_BEFORE: tuple[ColumnName, ...] = (
    "sample_id", "uri", "status", "stage", "error_type", "message", "label", "target", "target_name",
    "target_prob", "pred", "pred_name", "prob",
)  # fmt: skip
_AFTER: tuple[ColumnName, ...] = ("width", "height", "box", "decoding")
_IMAGE = (*_BEFORE, "masked", *_AFTER)


class EvaluationRow(Row, total=False):
    """The results of one sample in an evaluation.

    Attributes:
        masked: whether the sample has a mask of the object; null where the sample failed.
        methods: from the label of each method to its columns: `blank`, `grid` and those of the metrics.
    """

    masked: bool | None
    methods: dict[str, dict[str, Any]]


class MethodRow(Row, total=False):
    """One stored row of an evaluation: a sample and a method. The columns of the metrics come in addition.

    Attributes:
        masked: as in `EvaluationRow`.
        method: label of the method; null where the sample failed.
    """

    masked: bool | None
    method: str | None


def _schema(columns: Sequence[Column], map_shape: tuple[int, int]) -> pa.Schema:
    """The Arrow schema of a part: columns of the image, of the method, and of the metrics."""
    types = {column.name: pa.list_(pa.float32()) if column.curve else pa.float32() for column in columns}
    return pa.schema([
        *arrow_schema(map_shape, _BEFORE), ("masked", pa.bool_()), *arrow_schema(map_shape, _AFTER),
        ("method", pa.string()), *arrow_schema(map_shape, ("blank", "grid")), *types.items(),
    ])  # fmt: skip


class EvaluationStore(Store):
    """The files of an evaluation.

    Args:
        out: the folder.
        columns: the columns of the metrics that are measured.
        mirror: as for `Store`.

    Example:
        >>> import tempfile
        >>> store = EvaluationStore(Path(tempfile.mkdtemp()), [Column("average_drop", "lower", "Lost share, 0 to 1.")])
        >>> row = {"sample_id": "a", "uri": "/a.png", "status": "ok", "methods": {"cfcam": {"average_drop": 0.5}}}
        >>> store.write_part(0, [row], map_shape=(7, 7))
        >>> store.read_rows(0, ["average_drop"])[0]["methods"]
        {'cfcam': {'average_drop': 0.5}}
    """

    uses_masks = True
    has_line_per_sample = False
    other_kind = OtherKind("run.json", "a run of cfcam explain")

    def __init__(self, out: Path, columns: Sequence[Column], mirror: Mirror | None = None) -> None:
        super().__init__(out, mirror)
        self.columns = columns
        self.run_file = out / "evaluation.json"
        self.cost_folder = out / "cost"
        self.metrics_file = out / "metrics.parquet"
        self.summary_file = out / "summary.json"

    def read_rows(self, part: int, columns: Sequence[str] | None = None) -> list[Row]:
        """The rows of a part, one for each sample (`EvaluationRow`); `columns` as for `read_part`.

        Raises:
            StoreError: the part cannot be read.
        """
        names = None if columns is None else ["sample_id", "method", *columns]
        return self.table_to_rows(self.read_part(part, names))

    def rows_to_table(self, rows: Sequence[Row], map_shape: tuple[int, int]) -> pa.Table:
        """The stored lines of the rows of samples: one for each method; `map_shape`: (h, w) of the maps."""
        lines = [line for row in rows for line in _lines(cast(EvaluationRow, row))]
        return rows_to_table(lines, _schema(self.columns, map_shape))

    def table_to_rows(self, table: pa.Table) -> list[Row]:
        """The reverse of `rows_to_table`; the table has the columns `sample_id` and `method`."""
        lines: list[Any] = table_to_rows(table)
        return [_nested(list(group)) for _, group in groupby(lines, key=lambda line: line["sample_id"])]

    def write_cost(self, rank: int, cost: dict[str, float]) -> None:
        """Stores the images per second of each method, as the process of a rank measured them.

        Raises:
            StoreError: they cannot be written.
        """
        path = self.cost_folder / f"share-{rank}.json"
        self._write(path, json.dumps(cost, indent=2).encode(), None)
        self.mirror.written(path)

    def read_cost(self) -> dict[str, float] | None:
        """The images per second of each method, as the lowest rank measured them; None where none did.

        Raises:
            StoreError: the file cannot be read.
        """
        for path in sorted(
            self.cost_folder.glob("share-*.json"), key=lambda path: (len(path.name), path.name)
        ):
            try:
                return dict(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError) as error:
                raise StoreError(f"{path} cannot be read ({error}); remove it and run again") from error
        return None

    def merge_parts(self, plan: Plan, map_shape: tuple[int, int]) -> None:
        """Writes metrics.parquet from all parts, one after the other: each is a row group.

        Raises:
            StoreError: a part cannot be read, or the file cannot be written.
        """
        try:
            with (
                atomic_file(self.metrics_file) as file,
                pq.ParquetWriter(file, _schema(self.columns, map_shape), compression="zstd") as writer,
            ):
                for part in range(plan.parts):
                    table = self.read_part(part)
                    writer.write_table(table, row_group_size=max(1, len(table)))
        except OSError as error:
            raise self.unwritable(self.metrics_file, error) from error
        self.sync_folder(self.out)

    def read_table(
        self, columns: Sequence[str] | None = None, sample_ids: Sequence[str] | None = None
    ) -> pa.Table:
        """The rows of metrics.parquet.

        Args:
            columns: names of the columns to read; None: all but the maps.
            sample_ids: samples whose rows are read; None: all.

        Raises:
            StoreError: the file cannot be read.
        """
        filters = (
            None if sample_ids is None else pc.field("sample_id").isin(pa.array(sample_ids, pa.string()))
        )
        try:
            stored = pq.read_schema(self.metrics_file).names
            names = [name for name in stored if name != "grid"] if columns is None else list(columns)
            return pq.read_table(self.metrics_file, columns=names, filters=filters, partitioning=None)
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(error) from error

    def read_tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The rows of metrics.parquet, one part after the other; `columns` as for `read_table`.

        Raises:
            StoreError: the file cannot be read.
        """
        try:
            with pq.ParquetFile(self.metrics_file) as file:
                stored = file.schema_arrow.names
                names = [name for name in stored if name != "grid"] if columns is None else list(columns)
                for group in range(file.num_row_groups):
                    yield file.read_row_group(group, columns=names)
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> StoreError:
        return StoreError(
            f"{self.metrics_file} cannot be read ({first_line(error)}); remove it and run again"
        )

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Stores summary.json.

        Raises:
            StoreError: it cannot be written.
        """
        self._write(self.summary_file, json.dumps(summary, indent=2, allow_nan=False).encode(), None)

    def remove_plots(self) -> None:
        """Removes the plots of an earlier summary.

        Raises:
            StoreError: one cannot be removed.
        """
        try:
            for path in (self.out / "plots").glob("*.png"):
                path.unlink(missing_ok=True)
        except OSError as error:
            raise self.unwritable(self.out / "plots", error) from error

    def wipe(self, files: Iterable[str]) -> None:
        """Removes the evaluation with its summary, plots and page; all other files in the folder stay.

        Args:
            files: further files of the evaluation, as paths below the folder.

        Raises:
            StoreError: a file cannot be removed.
        """
        patterns = ("cost/share-*.json", "plots/*.png", "metrics.parquet", "summary.json", "report.html")
        paths = [path for pattern in patterns for path in self.out.glob(pattern)]
        super().wipe([*files, *(path.relative_to(self.out).as_posix() for path in paths)])


def _lines(row: EvaluationRow) -> Iterator[dict[str, Any]]:
    """The stored rows of a sample: one for each method, or one without a method if the sample failed."""
    shared = {name: value for name, value in row.items() if name in _IMAGE}
    if "methods" not in row:
        yield shared
    for label, columns in row.get("methods", {}).items():
        yield {**shared, "method": label, **columns}


def _nested(lines: list[dict[str, Any]]) -> EvaluationRow:
    """The reverse of `_lines`."""
    row = cast(EvaluationRow, {name: lines[0][name] for name in _IMAGE if name in lines[0]})
    if lines[0]["method"] is None:
        return row
    row["blank"] = any(line.get("blank") for line in lines)
    row["methods"] = {
        line["method"]: {
            name: value for name, value in line.items() if name not in _IMAGE and name != "method"
        }
        for line in lines
    }
    return row
