"""Reading the results of a run: as tables, row by row, and as heatmaps of any size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from cfcam_gpu._utils.messages import unknown
from cfcam_gpu._utils.optional import require
from cfcam_gpu.dataset.sources.names import leads_out
from cfcam_gpu.dataset.store.output import fetched_output
from cfcam_gpu.dataset.store.plan import Plan
from cfcam_gpu.dataset.store.schema import (
    COLUMNS,
    Row,
    arrow_schema,
    has_several_targets,
    table_maps,
    table_to_rows,
    target_name,
)
from cfcam_gpu.dataset.store.store import Store
from cfcam_gpu.errors import ConfigError, InputError, StoreError
from cfcam_gpu.images.overlay import fit_heatmap, upsample_grid

if TYPE_CHECKING:
    import pandas


def open_results(out: str | Path) -> Results:
    """The results that `explain_dataset` stored in a folder, also those of an unfinished run.

    Args:
        out: the folder, or its URL; then its parts are fetched to this machine, as far as they are not here or were
            changed.

    Raises:
        StoreError: the folder holds no results, or they cannot be read; a run of this machine is writing to the URL.
        InputError: no results are at such a URL. MissingPackageError: what reads such URLs is not installed.

    Example:
        >>> open_results("empty-folder")
        Traceback (most recent call last):
        cfcam_gpu.errors.StoreError: empty-folder holds no results: there is no run.json; \
`cfcam explain … --out empty-folder` makes them
    """
    store = Store(*fetched_output(out))
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
    """The parts of a run that are finished at the time this is made.

    Attributes:
        store: the output folder.
        run: the content of run.json.
        parts: numbers of the finished parts.
        map_shape: (h, w) of the maps at the layer's resolution.
        size: (H, W) of the model's input.

    Example:
        >>> import tempfile
        >>> from cfcam_gpu.dataset.sources.sample import Sample
        >>> store = Store(Path(tempfile.mkdtemp()))
        >>> store.write_run({"grid": [1, 2], "size": [2, 4]})
        >>> _ = store.write_plan([Sample("a", "/a.png"), Sample("b", "/b.png")], part_size=1)
        >>> row = {"sample_id": "a", "uri": "/a.png", "status": "ok", "grid": np.float32([[0, 3]])}
        >>> store.write_part(0, [row], map_shape=(1, 2))
        >>> results = open_results(store.out)
        >>> results.counts()
        {'total': 2, 'ok': 1, 'error': 0, 'blank': 0, 'missing': 1}
        >>> results.heatmap("a").round(2).tolist()
        [[0.0, 0.25, 0.75, 1.0], [0.0, 0.25, 0.75, 1.0]]
    """

    def __init__(self, store: Store, run: dict[str, Any], parts: Iterable[int] | None = None) -> None:
        self.store = store
        self.run = run
        self.parts = sorted(store.finished_parts() if parts is None else store.finished_parts() & set(parts))
        self.map_shape: tuple[int, int] = (run["grid"][0], run["grid"][1])
        self.size: tuple[int, int] = (run["size"][0], run["size"][1])

    def only(self, parts: Iterable[int]) -> Results:
        """The results of those of the parts that are finished."""
        return Results(self.store, self.run, parts)

    @property
    def plan(self) -> Plan:
        """The plan of the run: all its samples, also those without a row so far."""
        return self.store.read_plan()

    def __len__(self) -> int:
        """Number of rows; where several classes of a sample are explained, it may have several."""
        if self.has_several_targets:
            return sum(self.store.count_rows(part) for part in self.parts)
        plan = self.plan
        return sum(plan.count(part) for part in self.parts)

    @property
    def has_several_targets(self) -> bool:
        """Whether a sample may have several rows, one for each explained class."""
        return has_several_targets(self.run)

    def counts(self) -> dict[str, int]:
        """How many samples there are of each kind.

        Returns:
            `total`: samples of the run; `ok`: explained; `error`: failed; `blank`: those of the explained with a map
            that is zero everywhere; `missing`: without a row so far.
        """
        import pyarrow.compute as pc

        total, ok, blank, rows = len(self.plan), 0, 0, 0
        for table in self._tables_of_samples():
            good = pc.equal(table["status"], "ok")
            ok += pc.sum(good).as_py() or 0
            blank += pc.sum(pc.and_(good, pc.fill_null(table["blank"], fill_value=False))).as_py() or 0
            rows += len(table)
        return {"total": total, "ok": ok, "error": rows - ok, "blank": blank, "missing": total - rows}

    def _tables_of_samples(self) -> Iterator[pa.Table]:
        """The columns `status` and `blank` of each part with one row for each sample."""
        if not self.has_several_targets:
            yield from self.tables(["status", "blank"])
            return
        for table in self.tables(["sample_id", "status", "blank"]):
            grouped = table.group_by("sample_id").aggregate([("status", "min"), ("blank", "max")])
            # "error" comes before "ok": one row that failed is enough.
            yield grouped.select(["status_min", "blank_max"]).rename_columns(["status", "blank"])

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """One Arrow table for each part, in order.

        Args:
            columns: names from `schema.COLUMNS`; None: all.

        Raises:
            ConfigError: an unknown column.
            StoreError: a part cannot be read.
        """
        _check_columns(columns)
        for part in self.parts:
            yield self.store.read_part(part, columns)

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows in one Arrow table, where `grid` is a column of fixed-shape tensors (h, w). See `tables`."""
        _check_columns(columns)
        whole = arrow_schema(self.map_shape)
        wanted = pa.schema([whole.field(name) for name in columns or COLUMNS])
        return pa.concat_tables(
            [wanted.empty_table(), *(t.select(wanted.names) for t in self.tables(columns))]
        )

    def to_pandas(self, columns: Sequence[str] | None = None) -> pandas.DataFrame:
        """All rows in a data frame, where `grid` holds arrays (h, w) float32 or None. See `tables`.

        Raises:
            MissingPackageError: pandas is not installed.
        """
        pd = require("pandas", "pandas")
        table = self.table(columns)
        names = [name for name in table.column_names if name != "grid"]
        frame: pandas.DataFrame = table.select(names).to_pandas()
        if "grid" in table.column_names:
            frame.insert(table.column_names.index("grid"), "grid", pd.Series(table_maps(table), dtype=object))
        return frame

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[Row]:
        """Every row, in order, where `grid` is (h, w) float32 or None. See `tables`."""
        for table in self.tables(columns):
            yield from table_to_rows(table)

    def named_rows(self) -> Iterator[tuple[str, Row]]:
        """Every row with a name from which names of files are made: a path without extension.

        It is the name of the sample, with the class where several classes of a sample are explained.

        Raises:
            StoreError: a name leads out of the folder that it is appended to.
        """
        plan, several = self.plan, self.has_several_targets
        for part in self.parts:
            rows = table_to_rows(self.store.read_part(part))
            names = {sample.sample_id: sample.name for sample in plan.samples(part)}
            for sample_id, name in names.items():
                if leads_out(name):
                    raise StoreError(
                        f"the plan {plan.path} is damaged: the name {name!r} of sample {sample_id!r} leads out of the "
                        "output folder; --overwrite starts the run anew"
                    )
            for row in rows:
                yield target_name(names[row["sample_id"]], row["target"] if several else None), row

    def row(self, sample_id: str, target: int | None = None) -> Row:
        """The row of a sample. It reads the parts one after the other until it meets the sample.

        Args:
            target: the explained class, where there are several; None: the first.

        Raises:
            InputError: no finished part has the sample, or the class was not explained.
        """
        import pyarrow.compute as pc

        for part in self.parts:
            ids = self.store.read_part(part, ["sample_id"])["sample_id"]
            position, count = pc.index(ids, sample_id).as_py(), pc.sum(pc.equal(ids, sample_id)).as_py()
            if position >= 0:
                rows = table_to_rows(self.store.read_part(part).slice(position, count))
                return rows[0] if target is None else _row_of_target(rows, target)
        raise InputError(f"{self.store.name} has no row of a sample {sample_id!r}")

    def heatmap(
        self,
        sample: str | Mapping[str, Any],
        size: tuple[int, int] | str | None = None,
        target: int | None = None,
    ) -> np.ndarray:
        """The heatmap of a sample: (H, W) float32 in [0, 1], divided by its maximum; zeros where it is blank.

        Args:
            sample: its id, or its row.
            size: (H, W): the model's view of the image at this size; None: at the model's input size;
                "original": the upright original with its own size, zeros where the model saw nothing of it.
            target: the explained class, where a sample given by its id has several; None: the first.

        Raises:
            InputError: there is no such sample, it has no map, or not one of this class.
            ConfigError: the size is none of these.
        """
        row: Mapping[str, Any] = self.row(sample, target) if isinstance(sample, str) else sample
        grid = row.get("grid")
        if grid is None:
            why = row.get("message") or "its row has no grid"
            raise InputError(f"sample {row.get('sample_id')!r} has no heatmap: {why}")
        if size == "original":
            heatmap = upsample_grid(grid, self.size)
            return fit_heatmap(heatmap, tuple(row["box"]), row["width"], row["height"])
        return upsample_grid(grid, self.size if size is None else _checked_size(size))


def _row_of_target(rows: Sequence[Row], target: int) -> Row:
    for row in rows:
        if row["target"] == target:
            return row
    explained = ", ".join(str(row["target"]) for row in rows)
    raise InputError(f"class {target} of sample {rows[0]['sample_id']!r} was not explained, but {explained}")


def _checked_size(size: Any) -> tuple[int, int]:
    if isinstance(size, str) or len(size) != 2 or not all(isinstance(n, int) and n > 0 for n in size):
        raise ConfigError(f"size must be (H, W), two positive integers, 'original' or None, got {size!r}")
    return size[0], size[1]


def _check_columns(columns: Sequence[str] | None) -> None:
    for name in columns or ():
        if name not in COLUMNS:
            raise ConfigError(unknown("column", name, COLUMNS))
