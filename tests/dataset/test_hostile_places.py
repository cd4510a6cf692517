"""Sample ids and output folders that would meet a run's own files or lead out of its folder."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cfcam_gpu.dataset import open_results
from cfcam_gpu.dataset.exporters import arrays, coco, pictures, tables
from cfcam_gpu.dataset.options import EXPORT_FORMATS
from cfcam_gpu.dataset.store.export import export
from cfcam_gpu.dataset.store.store import Store
from cfcam_gpu.errors import InputError, StoreError
from tests.helpers.smallnet import photo, rows, run, save

#: Ids whose pictures met files of the store, of an evaluation, of the report, or each other's.
IDS = [
    "shards/part-00001.parquet/x", "SHARDS/part-00000.parquet/x", "evaluation.json/x", "report.html/x",
    "report_files/r-000000000000/x", "run.json/x", "plan.parquet/x", ".cfcam/locks/setup/x", "overlays/part-00000/x",
    "metrics.parquet/x", "cat", "cat_cfcam.png/x", "CAT_cfcam.PNG/x", "cat.png/x", "cat_heatmap.png/x", "run.json",
]  # fmt: skip


def manifest(folder: Path, ids: list[str]) -> Path:
    save(folder, photo=photo(1))
    path = folder / "all.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "sample_id"])
        writer.writerows(["photo.png", one] for one in ids)
    return path


def test_ids_like_the_stores_own_files_get_another_place(tmp_path):
    out, inputs = tmp_path / "out", manifest(tmp_path / "in", IDS)
    summary = run(inputs, out, part_size=4)
    stored = rows(out)
    assert (summary.tally.ok, [row["sample_id"] for row in stored]) == (len(IDS), IDS)
    pictures = [row["overlay"] for row in stored]
    assert len({picture.casefold() for picture in pictures}) == len(IDS)
    assert all((out / picture).is_file() for picture in pictures)
    assert (pictures[0], pictures[10]) == ("shards_/part-00001.parquet/x_cfcam.png", "cat_cfcam.png")
    assert {path.name for path in (out / "shards").iterdir()} == {f"part-0000{i}.parquet" for i in range(4)}
    for to in EXPORT_FORMATS:
        assert export(open_results(out), to, tmp_path / to) == len(IDS)
    again = run(inputs, out, part_size=4)
    assert (again.before, again.now) == (len(IDS), 0)
    run(inputs, out, part_size=4, overwrite=True)
    assert open_results(out).counts()["ok"] == len(IDS)


def tampered(out: Path, name: str) -> None:
    """Writes another name into a stored plan."""
    table = pq.read_table(out / "plan.parquet")
    names = pa.array([name] * len(table), pa.string())
    pq.write_table(table.set_column(table.column_names.index("name"), "name", names), out / "plan.parquet")


@pytest.mark.parametrize("to", EXPORT_FORMATS)
@pytest.mark.parametrize("name", ["../../escaped", "/tmp/cfcam-escaped", "a/../../escaped", "a\0b"])
def test_an_export_never_writes_outside_its_destination(tmp_path, to, name):
    out = tmp_path / "deep/out"
    run(save(tmp_path / "in", a=photo(1)), out)
    tampered(out, name)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    if to not in ("png", "fiftyone"):  # the others write no files of that name
        assert export(open_results(out), to, tmp_path / "deep/maps") == 1
    else:
        with pytest.raises(
            StoreError, match=r"plan .* is damaged: the name .* leads out of the output folder"
        ):
            export(open_results(out), to, tmp_path / "deep/maps")
        assert {path for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not list(Path("/tmp").glob("cfcam-escaped*"))
    assert not list(tmp_path.rglob("escaped*"))


#: What each format calls once or more for each sample.
STEPS: dict[str, tuple[Any, str]] = {
    "npz": (arrays, "table_maps"), "zarr": (arrays, "table_maps"), "png": (pictures, "encode_image"),
    "fiftyone": (pictures, "encode_image"), "csv": (tables, "_with_edges"), "jsonl": (tables, "_line"),
    "parquet": (Store, "read_part"), "coco": (coco, "marked_box"),
}  # fmt: skip


@pytest.mark.parametrize("to", EXPORT_FORMATS)
def test_an_export_that_fails_midway_leaves_nothing(tmp_path, monkeypatch, to):
    out = tmp_path / "out"
    run(save(tmp_path / "in", a=photo(1), b=photo(2), c=photo(3)), out, part_size=1)
    calls: list[object] = []

    def failing(function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            calls.append(arguments)
            if len(calls) == 3:
                raise OSError(28, "No space left on device")
            return function(*arguments)

        return call

    module, name = STEPS[to]
    monkeypatch.setattr(module, name, failing(getattr(module, name)))
    with pytest.raises(InputError, match=r"cannot write .*maps: No space left on device"):
        export(open_results(out), to, tmp_path / "maps")
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]
    assert export(open_results(out), to, tmp_path / "maps") == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dangling", "it is a link to a folder that does not exist"),
        ("n" * 300, "File name too long"),
        ("file", "File exists"),
        ("file/below", "Not a directory"),
    ],
)
def test_an_output_folder_that_cannot_be_is_one_error(tmp_path, name, message):
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=f"cannot make the output folder .*: {message}"):
        run(save(tmp_path / "in", a=photo(1)), tmp_path / name)


def test_an_output_folder_that_may_not_be_entered_is_one_error(tmp_path, monkeypatch):
    """Root may enter every folder, so the system's answer is made up."""
    out = tmp_path / "out"
    out.mkdir()
    stat = os.stat

    def denied(path: Any, *arguments: Any, **named: Any) -> Any:
        if str(path).startswith(f"{out}{os.sep}"):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, *arguments, **named)

    folder = save(tmp_path / "in", a=photo(1))
    monkeypatch.setattr(os, "stat", denied)
    monkeypatch.setattr(os, "mkdir", lambda path, *_: denied(path))
    with pytest.raises(StoreError, match=r"cannot open the lock .*: Permission denied"):
        run(folder, out)


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_input_is_not_the_current_folder(tmp_path, monkeypatch, text):
    monkeypatch.chdir(save(tmp_path / "in", a=photo(1)))
    with pytest.raises(InputError, match="an input is an empty text"):
        run([text], tmp_path / "out")
    assert not (tmp_path / "out").exists()
