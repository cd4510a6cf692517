"""What a run has stored, for reading: tables, rows one by one, heatmaps at any size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cfcam_gpu.dataset.store.plan import Plan
from cfcam_gpu.dataset.store.schema import COLUMNS, Row, arrow_schema, table_maps, table_to_rows
from cfcam_gpu.dataset.store.store import Store
from cfcam_gpu.errors import ConfigError, InputError, ModelError, StoreError
from cfcam_gpu.images.overlay import fit_heatmap, upsample_grid

if TYPE_CHECKING:
    import pandas


def open_results(out: str | Path) -> Results:
    """The results of `explain_dataset` in a folder, also of a run that is not finished.

    Raises:
        StoreError: the folder holds none, or they cannot be read.
    """
    store = Store(Path(out))
    run = store.read_run()
    if run is None and store.holds_other_kind():
        kind = store.other_kind.description
        raise StoreError(f"{out} holds {kind}; this needs the folder of a cfcam explain run")
    if run is None:
        raise StoreError(
            f"{out} holds no results: there is no run.json; `cfcam explain … --out {out}` makes them"
        )
    return Results(store, run)


class Results:
    """The finished parts of a run, as they were when this was made.

    Attributes:
        run: the content of run.json. parts: numbers of the finished parts.
        grid: (h, w) of the maps; size: (H, W) of the model's input.
    """

    def __init__(self, store: Store, run: dict[str, Any], parts: Iterable[int] | None = None) -> None:
        self.store = store
        self.run = run
        self.parts = sorted(store.finished_parts() if parts is None else store.finished_parts() & set(parts))
        self.grid: tuple[int, int] = (run["grid"][0], run["grid"][1])
        self.size: tuple[int, int] = (run["size"][0], run["size"][1])

    def only(self, parts: Iterable[int]) -> Results:
        """The results of some parts."""
        return Results(self.store, self.run, parts)

    @property
    def plan(self) -> Plan:
        """The samples of the run, also those that have no row yet."""
        return self.store.read_plan()

    def __len__(self) -> int:
        """Number of rows."""
        plan = self.plan
        return sum(plan.count(part) for part in self.parts)

    def counts(self) -> dict[str, int]:
        """Number of samples: `total` of the run, `ok`, `error`, `blank` among the ok ones, `missing` without a row."""
        total, found = len(self.plan), Counter[str]()
        for table in self.tables(["status", "blank"]):
            good = pc.equal(table["status"], "ok")
            found["ok"] += pc.sum(good).as_py() or 0
            found["rows"] += len(table)
            found["blank"] += pc.sum(pc.and_(good, pc.fill_null(table["blank"], False))).as_py() or 0
        ok, rows = found["ok"], found["rows"]
        return {
            "total": total, "ok": ok, "error": rows - ok, "blank": found["blank"], "missing": total - rows,
        }  # fmt: skip

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """One Arrow table a part, in order; `columns`: names from `store.COLUMNS`, None: all."""
        _check_columns(columns)
        for part in self.parts:
            yield self.store.read_part(part, columns)

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows in one Arrow table; `grid` is a fixed-shape tensor (h, w)."""
        _check_columns(columns)
        whole = arrow_schema(self.grid)
        wanted = pa.schema([whole.field(name) for name in columns or COLUMNS])
        return pa.concat_tables(
            [wanted.empty_table(), *(t.select(wanted.names) for t in self.tables(columns))]
        )

    def to_pandas(self, columns: Sequence[str] | None = None) -> pandas.DataFrame:
        """All rows in a data frame; `grid` holds arrays (h, w) float32 or None.

        Raises:
            ModelError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ModelError("pandas is not installed; run: pip install 'cfcam-gpu[pandas]'") from error
        table = self.table(columns)
        names = [name for name in table.column_names if name != "grid"]
        frame: pandas.DataFrame = table.select(names).to_pandas()
        if "grid" in table.column_names:
            frame.insert(
                table.column_names.index("grid"), "grid", pandas.Series(table_maps(table), dtype=object)
            )
        return frame

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[Row]:
        """Every row as a dict, part by part; `grid` is (h, w) float32 or None."""
        for table in self.tables(columns):
            yield from table_to_rows(table)

    def named_rows(self) -> Iterator[tuple[str, Row]]:
        """Every row with the name that its files carry: a relative path without extension."""
        plan = self.plan
        for part in self.parts:
            rows = table_to_rows(self.store.read_part(part))
            for sample, row in zip(plan.samples(part), rows, strict=True):
                yield sample.name, row

    def row(self, sample_id: str) -> Row:
        """The row of a sample; looks through the parts.

        Raises:
            InputError: no finished part has it.
        """
        for part in self.parts:
            position = pc.index(self.store.read_part(part, ["sample_id"])["sample_id"], sample_id).as_py()
            if position >= 0:
                return table_to_rows(self.store.read_part(part).slice(position, 1))[0]
        raise InputError(f"{self.store.out} has no row of a sample {sample_id!r}")

    def heatmap(
        self, sample: str | Mapping[str, Any], size: tuple[int, int] | str | None = None
    ) -> np.ndarray:
        """The heatmap of a sample, (H, W) float32 in [0, 1], divided by its own maximum; zeros where blank.

        Args:
            sample: its id, or its row.
            size: (H, W), what the model saw at that size, up to the model's input size the same map;
                None: the model's input size; "original": in the frame of the upright original, zeros
                where the model saw nothing.

        Raises:
            InputError: there is no such sample, or it has no map.
            ConfigError: another size.
        """
        row: Mapping[str, Any] = self.row(sample) if isinstance(sample, str) else sample
        grid = row.get("grid")
        if grid is None:
            why = row.get("message") or "its row has no grid"
            raise InputError(f"sample {row.get('sample_id')!r} has no heatmap: {why}")
        if size == "original":
            heatmap = upsample_grid(grid, self.size)
            return fit_heatmap(heatmap, tuple(row["box"]), row["width"], row["height"])
        return upsample_grid(grid, self.size if size is None else _checked_size(size))


def _checked_size(size: Any) -> tuple[int, int]:
    if isinstance(size, str) or len(size) != 2 or not all(isinstance(n, int) and n > 0 for n in size):
        raise ConfigError(f"size must be (H, W), two positive integers, 'original' or None, got {size!r}")
    return size[0], size[1]


def _check_columns(columns: Sequence[str] | None) -> None:
    unknown = [name for name in columns or () if name not in COLUMNS]
    if unknown:
        raise ConfigError(f"unknown column {unknown[0]!r}; choose among: {', '.join(COLUMNS)}")
