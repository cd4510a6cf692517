"""A run's output folder: run.json, the plan, and one Parquet file a part. What has its name is whole.

OUT/run.json                    fingerprint, shapes, and what people want to know
OUT/plan.parquet                the samples in order (see `plan`)
OUT/shards/part-NNNNN.parquet   one row per sample, also for the failed ones
OUT/.cfcam/                     locks, and files that have no name yet
"""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cfcam_gpu.dataset.sources.sample import Sample
from cfcam_gpu.dataset.store.atomic_files import reason, remove_page_folders, sync_folder, write_whole
from cfcam_gpu.dataset.store.plan import Plan, write_plan
from cfcam_gpu.dataset.store.schema import Row, arrow_schema, rows_to_table, table_to_rows
from cfcam_gpu.errors import InputError, StoreError

FORMAT = 1

#: The page that `cfcam report` writes into the folder, and how its title begins.
REPORT, REPORT_TITLE = "report.html", "CF-CAM report"


class Store:
    """The files of an output folder; whoever writes holds a claim on it (`locks`).

    `with_masks`: whether the rows depend on the samples' masks. `other`: the file by which results of another
    kind are known, and what they are; they do not share a folder.
    """

    with_masks = False
    other = ("evaluation.json", "an evaluation, whose page is report.html")

    def __init__(self, out: Path) -> None:
        self.out = out
        self.run_file = out / "run.json"
        self.plan_file = out / "plan.parquet"
        self.parts = out / "shards"
        self.hidden = out / ".cfcam"
        self.locks = self.hidden / "locks"

    def make(self) -> None:
        """Makes the folder. Raises InputError, and StoreError where something else has its results in it."""
        file, what = self.other
        if (self.out / file).exists():
            raise StoreError(f"{self.out} holds {what}; choose another output folder")
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the output folder {self.out}: {reason(error)}") from error

    def temporary(self, index: int) -> Path:
        """Folder of the files of a claim that have no name yet."""
        return self.hidden / f"temporary-{index}"

    def clear_leftovers(self, index: int, count: int) -> None:
        """Removes what a crash left of this index, and of those beyond `count` that nobody can hold."""
        for folder in self.hidden.glob("temporary-*"):
            number = folder.name.partition("-")[2]
            if number.isdecimal() and (int(number) == index or int(number) >= count):
                shutil.rmtree(folder, ignore_errors=True)
        for file in self.out.glob(".cfcam-*.part"):  # of run.json and the plan, written under the setup lock
            file.unlink(missing_ok=True)

    def run(self) -> dict[str, Any] | None:
        """What run.json says; None when there is none.

        Raises:
            StoreError: it cannot be read, or another version of the package wrote it.
        """
        try:
            content = json.loads(self.run_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise StoreError(f"{self.run_file} cannot be read ({error})") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise StoreError(
                f"{self.run_file} is of another format than {FORMAT}; choose another output folder"
            )
        return content

    def write_run(self, content: dict[str, Any]) -> None:
        """Stores run.json. Raises StoreError."""
        text = json.dumps({"format": FORMAT, **content}, indent=2, allow_nan=False)
        self._write(self.run_file, text.encode(), None)

    def plan(self) -> Plan:
        return Plan(self.plan_file)

    def write_plan(self, samples: Sequence[Sample], part_size: int) -> Plan:
        try:
            return write_plan(self.plan_file, samples, [len(samples)], part_size)
        except OSError as error:
            raise self._unwritable(self.plan_file, error) from error

    def extend_plan(self, plan: Plan, samples: Sequence[Sample]) -> Plan:
        try:
            return plan.extended(samples)
        except OSError as error:
            raise self._unwritable(self.plan_file, error) from error

    def part_file(self, part: int) -> Path:
        return self.parts / f"part-{part:05d}.parquet"

    def done(self) -> set[int]:
        """Numbers of the parts that are whole."""
        names = (path.name for path in self.parts.glob("part-*.parquet"))
        found = (re.fullmatch(r"part-(\d{5,})\.parquet", name) for name in names)
        return {int(match[1]) for match in found if match}

    def write_part(self, part: int, rows: Iterable[Row], grid: tuple[int, int], index: int = 0) -> None:
        """Commits the rows of a part. Raises StoreError; nothing is left behind then."""
        content = io.BytesIO()
        pq.write_table(self._table(list(rows), grid), content, compression="zstd")
        path = self.part_file(part)
        self._write(path, content.getvalue(), self.temporary(index) / path.name)

    def read_part(self, part: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of a part. Raises StoreError."""
        path = self.part_file(part)
        try:
            return pq.read_table(path, columns=columns, partitioning=None)
        except (OSError, pa.ArrowException) as error:
            raise StoreError(
                f"{path} cannot be read ({str(error).splitlines()[0]}); remove it and run again to redo it"
            ) from error

    def rows(self, part: int, columns: Sequence[str] | None = None) -> list[Row]:
        """One row per sample of a part. Raises StoreError."""
        return table_to_rows(self.read_part(part, columns))

    def sync(self, folder: Path) -> None:
        """Makes the names in a folder last. Raises StoreError."""
        try:
            sync_folder(folder)
        except OSError as error:
            raise self._unwritable(folder, error) from error

    def wipe(self, pictures: Iterable[str]) -> None:
        """Removes the run, its report, and of other files only `pictures`, paths below the folder.

        Rows go before the pictures they tell of, and run.json last: a wipe that is cut short leaves
        a run that is less far.

        Raises:
            StoreError: something cannot be removed.
        """
        try:
            for part in self.done():
                self.part_file(part).unlink(missing_ok=True)
            for picture in pictures:
                self._remove_picture(picture)
            for folder in (
                *sorted((self.out / "overlays").glob("part-*")),
                self.out / "overlays",
                self.parts,
            ):
                _remove_if_empty(folder)
            self._remove_report()
            self.plan_file.unlink(missing_ok=True)
            self.run_file.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"cannot remove the earlier run in {self.out}: {reason(error)}") from error

    def _table(self, rows: Sequence[Row], grid: tuple[int, int]) -> pa.Table:
        return rows_to_table(rows, arrow_schema(grid))

    def _remove_picture(self, picture: str) -> None:
        path = self.out / picture
        if path.is_file() and self.out.resolve() in path.resolve().parents:
            path.unlink(missing_ok=True)

    def _remove_report(self) -> None:
        """A page of that name that somebody else wrote stays."""
        page = self.out / REPORT
        remove_page_folders(page)
        if page.is_file():
            with page.open("rb") as file:
                ours = f"<title>{REPORT_TITLE}".encode() in file.read(4096)
            if ours:
                page.unlink()

    def _write(self, path: Path, content: bytes, temporary: Path | None) -> None:
        try:
            write_whole(path, content, temporary)
        except OSError as error:
            raise self._unwritable(path, error) from error
        self.sync(path.parent)

    def _unwritable(self, path: Path, error: OSError) -> StoreError:
        return StoreError(
            f"cannot write {path}: {reason(error)}; what is done so far is kept, the same command resumes"
        )


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
