"""The output folder of an evaluation; one row per image and method.

OUT/evaluation.json             fingerprint, shapes, and what people want to know
OUT/plan.parquet                the samples in order, as of a dataset run
OUT/shards/part-NNNNN.parquet   the rows of a part, also for the failed samples, whole or absent
OUT/cost/share-N.json           methods' images per second, measured by a process
OUT/metrics.parquet             all rows, once every part is there; then what is made of them:
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

from cfcam_gpu.dataset.store.atomic_files import atomic_file
from cfcam_gpu.dataset.store.plan import Plan
from cfcam_gpu.dataset.store.schema import ColumnName, Row, arrow_schema, rows_to_table, table_to_rows
from cfcam_gpu.dataset.store.store import OtherKind, Store
from cfcam_gpu.errors import StoreError
from cfcam_gpu.metrics.base import Column

#: Columns of an image before and after `masked`, the same in the rows of all its methods.
_BEFORE: tuple[ColumnName, ...] = (
    "sample_id", "uri", "status", "stage", "error_type", "message", "label", "target", "target_name",
    "target_prob", "pred", "pred_name", "prob",
)  # fmt: skip
_AFTER: tuple[ColumnName, ...] = ("width", "height", "box", "decoding")
_IMAGE = (*_BEFORE, "masked", *_AFTER)


class EvaluationRow(Row, total=False):
    """What an evaluation says of one sample.

    Attributes:
        masked: whether the object's mask is known; null where the sample failed.
        methods: label of each method -> its columns: `blank`, `grid` and those of the metrics.
    """

    masked: bool | None
    methods: dict[str, dict[str, Any]]


class MethodRow(Row, total=False):
    """One stored row of an evaluation, of a sample and a method; the columns of the metrics stand beside these.

    Attributes:
        masked: as in `EvaluationRow`.
        method: label of the method; null where the sample failed.
    """

    masked: bool | None
    method: str | None


def schema(columns: Sequence[Column], grid: tuple[int, int]) -> pa.Schema:
    """Columns of a part whose maps are h×w: of the image, the method, and its metrics."""
    kinds = {c.name: pa.list_(pa.float32()) if c.curve else pa.float32() for c in columns}
    return pa.schema([
        *arrow_schema(grid, _BEFORE), ("masked", pa.bool_()), *arrow_schema(grid, _AFTER),
        ("method", pa.string()), *arrow_schema(grid, ("blank", "grid")), *kinds.items(),
    ])  # fmt: skip


class EvaluationStore(Store):
    """The files of an evaluation; `columns`: of the metrics that are measured."""

    uses_masks = True
    other_kind = OtherKind("run.json", "a run of cfcam explain")

    def __init__(self, out: Path, columns: Sequence[Column]) -> None:
        super().__init__(out)
        self.columns = columns
        self.run_file = out / "evaluation.json"
        self.cost_folder = out / "cost"
        self.metrics_file = out / "metrics.parquet"
        self.summary_file = out / "summary.json"

    def read_rows(self, part: int, columns: Sequence[str] | None = None) -> list[Row]:
        """One row per sample; what belongs to a method stands under `methods`."""
        wanted = None if columns is None else ["sample_id", "method", *columns]
        lines: list[Any] = table_to_rows(self.read_part(part, wanted))
        return [_nested(list(group)) for _, group in groupby(lines, key=lambda line: line["sample_id"])]

    def _table(self, rows: Sequence[Row], grid: tuple[int, int]) -> pa.Table:
        lines = [line for row in rows for line in _lines(cast(EvaluationRow, row))]
        return rows_to_table(lines, schema(self.columns, grid))

    def write_cost(self, index: int, cost: dict[str, float]) -> None:
        """Keeps images per second of the methods that the process of a share measured. Raises StoreError."""
        self._write(self.cost_folder / f"share-{index}.json", json.dumps(cost, indent=2).encode(), None)

    def cost(self) -> dict[str, float] | None:
        """What the process of the first share that measured it found; None where none has."""
        for path in sorted(
            self.cost_folder.glob("share-*.json"), key=lambda path: (len(path.name), path.name)
        ):
            try:
                return dict(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError) as error:
                raise StoreError(f"{path} cannot be read ({error}); remove it and run again") from error
        return None

    def merge(self, plan: Plan, grid: tuple[int, int]) -> None:
        """Writes metrics.parquet from all parts, one after the other. Raises StoreError."""
        try:
            with (
                atomic_file(self.metrics_file) as file,
                pq.ParquetWriter(file, schema(self.columns, grid), compression="zstd") as writer,
            ):
                for part in range(plan.parts):
                    writer.write_table(self.read_part(part))
        except OSError as error:
            raise self._unwritable(self.metrics_file, error) from error
        self.sync_folder(self.out)

    def table(self, names: Sequence[str] | None = None, samples: Sequence[str] | None = None) -> pa.Table:
        """Columns of metrics.parquet; None: all but the maps. Only the rows of `samples`, where given.

        Raises:
            StoreError: the file cannot be read.
        """
        filters = None if samples is None else pc.field("sample_id").isin(pa.array(samples, pa.string()))
        try:
            everything = pq.read_schema(self.metrics_file).names
            wanted = [name for name in everything if name != "grid"] if names is None else list(names)
            return pq.read_table(self.metrics_file, columns=wanted, filters=filters, partitioning=None)
        except (OSError, pa.ArrowException) as error:
            raise StoreError(
                f"{self.metrics_file} cannot be read ({str(error).splitlines()[0]}); remove it and run again"
            ) from error

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Stores summary.json. Raises StoreError."""
        self._write(self.summary_file, json.dumps(summary, indent=2, allow_nan=False).encode(), None)

    def remove_plots(self) -> None:
        """Removes the plots of an earlier summary. Raises StoreError."""
        try:
            for path in (self.out / "plots").glob("*.png"):
                path.unlink(missing_ok=True)
        except OSError as error:
            raise self._unwritable(self.out / "plots", error) from error

    def wipe(self, files: Iterable[str]) -> None:
        """Removes the evaluation and what was made of it, `files`, and no other file. Raises StoreError."""
        folders = {"cost": "share-*.json", "plots": "*.png"}
        made = [path for folder, names in folders.items() for path in (self.out / folder).glob(names)]
        made += [self.metrics_file, self.summary_file, self.out / "report.html"]
        super().wipe([*files, *(path.relative_to(self.out).as_posix() for path in made)])


def _lines(row: EvaluationRow) -> Iterator[dict[str, Any]]:
    """A sample's stored rows: one for each method, or one without a method if it failed."""
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
