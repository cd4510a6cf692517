"""The output folder of a run: run.json, the plan, and one Parquet file for each part.

OUT/run.json                    fingerprint, shapes, and information for people
OUT/plan.parquet                the samples in order (see `plan`)
OUT/summary.json                accuracy of the predictions, where samples have labels (see `dataset.accuracy`)
OUT/shards/part-NNNNN.parquet   one row for each sample of a part, also for failed ones, or for each of its
                                explained classes (see `schema`)
OUT/.cfcam/                     locks, rows written ahead of their part (see `journal`), and files that are being
                                written

A file gets its name when it is complete, so every file under its final name can be relied on.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from cfcam_gpu._utils.messages import first_line
from cfcam_gpu._utils.places.masking import masked
from cfcam_gpu._utils.places.schemes import not_written
from cfcam_gpu._utils.regular_files import refuse_special
from cfcam_gpu.dataset.sources.sample import Sample
from cfcam_gpu.dataset.store.atomic_files import (
    os_reason,
    remove_page_folders,
    sync_folder,
    write_atomically,
)
from cfcam_gpu.dataset.store.mirror import Mirror
from cfcam_gpu.dataset.store.plan import Plan, write_plan
from cfcam_gpu.dataset.store.schema import (
    Row,
    arrow_schema,
    rows_of_sample,
    rows_to_table,
    samples_of_rows,
    table_to_rows,
)
from cfcam_gpu.errors import InputError, StoreError

#: Version of the format of run.json.
_FORMAT = 1

#: The page that `cfcam report` writes into the folder, and how its title begins.
REPORT, REPORT_TITLE = "report.html", "CF-CAM report"

#: What to do about a folder that holds another run.
REMEDY = "choose another output folder, or --overwrite (in Python overwrite=True) to begin anew"


class OtherKind(NamedTuple):
    """The kind of run that must not share a folder with this one: its marker file, and what to call it."""

    marker: str
    description: str


class Store:
    """The files of an output folder. Whoever writes into it holds a claim on it (see `locks`).

    Args:
        out: the folder, on this machine's disk.
        mirror: is told which files are finished; None: nobody is.

    Raises:
        InputError: the folder is a URL.

    Class attributes:
        uses_masks: whether the rows depend on the masks of the samples.
        has_line_per_sample: whether a sample has one stored line, unless several of its classes are explained.
        other_kind: the kind of run that must not share the folder.

    Attributes:
        out: the folder.
        mirror: is told which files are finished.
        name: the folder in messages: its path, or the URL that it is the staging folder of.
        run_file, plan_file, summary_file: paths of run.json, of the plan and of summary.json.
        parts_folder: folder of the parts.
        hidden_folder: folder of the locks, and of files that are being written.
        locks_folder: folder of the locks.
        ahead_folder: folder of the rows written ahead.

    Example:
        >>> import tempfile
        >>> store = Store(Path(tempfile.mkdtemp()) / "out")
        >>> store.make_folder()
        >>> row = {"sample_id": "a", "uri": "/a.png", "status": "error", "message": "empty file"}
        >>> store.write_part(0, [row], map_shape=(7, 7))
        >>> store.finished_parts(), store.read_rows(0, ["status", "message"])
        ({0}, [{'status': 'error', 'message': 'empty file'}])
    """

    uses_masks = False
    has_line_per_sample = True
    other_kind = OtherKind("evaluation.json", "an evaluation, whose page is report.html")

    def __init__(self, out: Path, mirror: Mirror | None = None) -> None:
        problem = not_written(str(out))
        if problem is not None:
            raise InputError(f"output folder {masked(str(out))!r} {problem}")
        self.out = out
        self.mirror = mirror or Mirror()
        self.name = self.mirror.name or str(out)
        self.run_file = out / "run.json"
        self.plan_file = out / "plan.parquet"
        self.summary_file = out / "summary.json"
        self.parts_folder = out / "shards"
        self.hidden_folder = out / ".cfcam"
        self.locks_folder = self.hidden_folder / "locks"
        self.ahead_folder = self.hidden_folder / "ahead"

    def make_folder(self) -> None:
        """Makes the output folder where it is missing.

        Raises:
            InputError: it cannot be made.
            StoreError: it holds a run of the other kind.
        """
        if self.holds_other_kind():
            raise StoreError(f"{self.name} holds {self.other_kind.description}; choose another output folder")
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            dangling = os.path.islink(self.out) and not os.path.exists(self.out)
            reason = "it is a link to a folder that does not exist" if dangling else os_reason(error)
            raise InputError(f"cannot make the output folder {self.out}: {reason}") from error

    def holds_other_kind(self) -> bool:
        """Whether the folder holds a run of the other kind."""
        return os.path.exists(self.out / self.other_kind.marker)  # Path.exists raises where it may not look

    def temporary_folder(self, rank: int) -> Path:
        """Folder of the files that the process of a rank is writing."""
        return self.hidden_folder / f"temporary-{rank}"

    def make_temporary_folder(self, rank: int) -> Path:
        """Makes the `temporary_folder` of a rank where it is missing.

        Raises:
            StoreError: it cannot be made.
        """
        folder = self.temporary_folder(rank)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self.unwritable(folder, error) from error
        return folder

    def remove_temporary_folder(self, rank: int) -> None:
        """Removes the `temporary_folder` of a rank, renamed first: whoever still writes adds no file to it."""
        folder = self.temporary_folder(rank)
        removed = folder.with_name(f"{folder.name}.removed")
        shutil.rmtree(removed, ignore_errors=True)
        with suppress(OSError):
            folder.rename(removed)
        shutil.rmtree(removed, ignore_errors=True)

    def clear_leftovers(self, rank: int, world_size: int) -> None:
        """Removes unfinished files that a crash left: those of `rank`, and of ranks that no process has now."""
        for folder in self.hidden_folder.glob("temporary-*"):
            number = folder.name.partition("-")[2].removesuffix(".removed")
            if number.isdecimal() and (int(number) == rank or int(number) >= world_size):
                shutil.rmtree(folder, ignore_errors=True)
        for file in self.out.glob(".cfcam-*.part"):  # of run.json and the plan, written under the setup lock
            file.unlink(missing_ok=True)

    def remove_ahead(self) -> None:
        """Removes all rows written ahead.

        Raises:
            OSError: they cannot be removed.
        """
        if self.ahead_folder.is_dir():
            shutil.rmtree(self.ahead_folder)

    def read_run(self) -> dict[str, Any] | None:
        """The content of run.json; None where there is none.

        Raises:
            StoreError: it cannot be read, or a version of the package with another format wrote it.
        """
        try:
            refuse_special(self.run_file)
            content = json.loads(self.run_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise StoreError(f"{self.run_file} cannot be read ({error})") from error
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise StoreError(
                f"{self.run_file} must have format {_FORMAT} and has another; choose another output folder"
            )
        return content

    def write_run(self, content: dict[str, Any]) -> None:
        """Writes run.json.

        Raises:
            StoreError: it cannot be written.
        """
        text = json.dumps({"format": _FORMAT, **content}, indent=2, allow_nan=False)
        self._write(self.run_file, text.encode(), None)

    def read_plan(self) -> Plan:
        """The stored plan.

        Raises:
            StoreError: it is missing or damaged.
        """
        return Plan(self.plan_file)

    def write_plan(self, samples: Collection[Sample], part_size: int) -> Plan:
        """Stores a new plan of the samples.

        Raises:
            StoreError: it cannot be written.
        """
        try:
            return write_plan(self.plan_file, samples, [len(samples)], part_size)
        except OSError as error:
            raise self.unwritable(self.plan_file, error) from error

    def extend_plan(self, plan: Plan, samples: Sequence[Sample]) -> Plan:
        """Stores the plan with more samples.

        Raises:
            StoreError: it cannot be written.
        """
        try:
            return plan.extended(samples)
        except OSError as error:
            raise self.unwritable(self.plan_file, error) from error

    def part_file(self, part: int) -> Path:
        """Path of the file of a part."""
        return self.parts_folder / f"part-{part:05d}.parquet"

    def finished_parts(self) -> set[int]:
        """Numbers of the parts that have been written."""
        names = (path.name for path in self.parts_folder.glob("part-*.parquet"))
        matches = (re.fullmatch(r"part-(\d{5,})\.parquet", name) for name in names)
        return {int(match[1]) for match in matches if match}

    def write_part(self, part: int, rows: Iterable[Row], map_shape: tuple[int, int], rank: int = 0) -> None:
        """Writes all rows of a part at once.

        Args:
            map_shape: (h, w) of the maps.
            rank: that of this process.

        Raises:
            StoreError: it cannot be written. No file is left behind.
        """
        content = io.BytesIO()
        pq.write_table(self.rows_to_table(list(rows), map_shape), content, compression="zstd")
        path = self.part_file(part)
        self._write(path, content.getvalue(), self.make_temporary_folder(rank) / path.name)

    def rows_to_table(self, rows: Sequence[Row], map_shape: tuple[int, int]) -> pa.Table:
        """The stored lines of the rows of samples; `map_shape`: (h, w) of the maps."""
        return rows_to_table([line for row in rows for line in rows_of_sample(row)], arrow_schema(map_shape))

    def table_to_rows(self, table: pa.Table) -> list[Row]:
        """The reverse of `rows_to_table`."""
        return samples_of_rows(table_to_rows(table))

    def read_part(self, part: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The table of a part; `columns`: names of the columns to read, None: all.

        Raises:
            StoreError: it cannot be read.
        """
        path = self.part_file(part)
        try:
            # `pq.read_table` imports pandas where it is installed; a path and threads cost more than small parts do.
            with pa.OSFile(str(path)) as content, pq.ParquetFile(content) as file:
                table = file.read(columns, use_threads=False)
            return table if columns is None else table.select(columns)
        except (OSError, KeyError, pa.ArrowException) as error:
            raise StoreError(
                f"{path} cannot be read ({first_line(error)}); remove it and run again to redo it"
            ) from error

    def read_rows(self, part: int, columns: Sequence[str] | None = None) -> list[Row]:
        """The rows of a part, one for each sample (`schema.SampleRow`); `columns` as for `read_part`.

        Raises:
            StoreError: the part cannot be read.
        """
        if columns is None or "sample_id" in columns:
            return self.table_to_rows(self.read_part(part, columns))
        samples = self.table_to_rows(self.read_part(part, ["sample_id", *columns]))
        for sample in samples:
            del sample["sample_id"]
        return samples

    def count_rows(self, part: int) -> int:
        """Number of stored rows of a part, also where samples have several. Raises StoreError."""
        return len(self.read_part(part, ["status"]))

    def sync_folder(self, folder: Path) -> None:
        """Makes the file names in a folder survive a power failure.

        Raises:
            StoreError: the folder cannot be written.
        """
        try:
            sync_folder(folder)
        except OSError as error:
            raise self.unwritable(folder, error) from error

    def wipe(self, files: Iterable[str]) -> None:
        """Removes the run and its report; all other files in the folder stay.

        Parts go before the pictures that their rows name, and run.json goes last: if this is
        interrupted, a run is left of which fewer parts are finished.

        Args:
            files: further files of the run, such as its pictures, as paths below the folder.

        Raises:
            StoreError: a file cannot be removed.
        """
        try:
            self.remove_ahead()
            for part in self.finished_parts():
                self.part_file(part).unlink(missing_ok=True)
            for file in files:
                self._remove_inside(file)
            overlays = self.out / "overlays"
            for folder in (*sorted(overlays.glob("part-*")), overlays, self.parts_folder):
                _remove_if_empty(folder)
            self._remove_report()
            self.summary_file.unlink(missing_ok=True)
            self.plan_file.unlink(missing_ok=True)
            self.run_file.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"cannot remove the earlier run in {self.name}: {os_reason(error)}") from error

    def _remove_inside(self, file: str) -> None:
        """Removes a file, unless its path leads out of the output folder."""
        path = self.out / file
        if path.is_file() and self.out.resolve() in path.resolve().parents:
            path.unlink(missing_ok=True)

    def _remove_report(self) -> None:
        """Removes the page of `cfcam report`; a page of that name that somebody else wrote stays."""
        page = self.out / REPORT
        remove_page_folders(page)
        if page.is_file():
            with page.open("rb") as file:
                ours = f"<title>{REPORT_TITLE}".encode() in file.read(4096)
            if ours:
                page.unlink()

    def _write(self, path: Path, content: bytes, temporary: Path | None) -> None:
        try:
            write_atomically(path, content, temporary)
        except OSError as error:
            raise self.unwritable(path, error) from error
        self.sync_folder(path.parent)

    def unwritable(self, path: Path, error: OSError) -> StoreError:
        """The error for a file that cannot be written."""
        return StoreError(
            f"cannot write {path}: {os_reason(error)}; what is done so far is kept, the same command resumes"
        )


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
