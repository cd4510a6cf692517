"""The output folder: rows come back as they were written, what has its name is whole, one run writes at a time."""

from __future__ import annotations

import errno
import json
import os
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cfcam_gpu.dataset.sources.sample import Sample
from cfcam_gpu.dataset.store import atomic_files as files
from cfcam_gpu.dataset.store import locks
from cfcam_gpu.dataset.store.atomic_files import whole_file, write_whole
from cfcam_gpu.dataset.store.plan import Plan, write_plan
from cfcam_gpu.dataset.store.store import FIELDS, Store, as_rows, as_table, schema
from cfcam_gpu.errors import InputError, StoreError

GRID = (2, 3)
GOOD = {
    "sample_id": "a/ü.jpg", "uri": "/data/a/ü.jpg", "status": "ok", "label": "7", "target": 2,
    "target_name": "cat", "target_prob": 0.25, "pred": 1, "pred_name": "bee", "prob": 0.5, "n_clusters": 3,
    "noise_fraction": 0.125, "blank": False, "grid": np.arange(6, dtype=np.float32).reshape(GRID),
    "heatmap_max": 5.0, "width": 60, "height": 45, "box": [0.0, 1.5, 60.0, 45.0], "overlay": "a/ü_cfcam.png",
}  # fmt: skip
BAD = {
    "sample_id": "b", "uri": "/data/b", "status": "error", "stage": "decode", "error_type": "ImageError",
    "message": "empty file",
}  # fmt: skip


def filled(row: dict) -> dict:
    return {name: row.get(name) for name in FIELDS}


def assert_rows(found: list[dict], expected: list[dict]) -> None:
    for row, same in zip(found, expected, strict=True):
        assert set(row) == set(FIELDS)
        np.testing.assert_equal(row, filled(same))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "out")
    store.make()
    return store


@pytest.mark.parametrize("rows", [[GOOD, BAD], [BAD, GOOD, GOOD], [BAD], [GOOD]], ids=len)
def test_rows_come_back_as_they_were_written(store, rows):
    store.write_part(3, rows, GRID)
    table = store.read_part(3)
    assert table.schema.equals(schema(GRID))
    assert_rows(as_rows(table), rows)
    assert_rows(as_rows(table.slice(len(rows) - 1)), rows[-1:])
    assert as_table(as_rows(table), GRID).equals(table)
    assert store.done() == {3}
    assert store.part_file(3).name == "part-00003.parquet"


def test_the_columns_are_those_that_other_programs_rely_on():
    types = {field.name: str(field.type) for field in schema(GRID)}
    assert list(types) == list(FIELDS)
    assert types["grid"] == "extension<arrow.fixed_shape_tensor[value_type=float, shape=[2,3]]>"
    assert schema(GRID).field("box").type == pa.list_(pa.float32(), 4)
    assert {name for name, kind in types.items() if kind == "string"} == {
        "sample_id", "uri", "status", "stage", "error_type", "message", "label", "target_name", "pred_name",
        "overlay", "decoding",
    }  # fmt: skip


def test_a_part_that_cannot_be_written_leaves_nothing_behind(store, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(
        StoreError, match=r"cannot write .*part-00000.parquet: No space left on device; what is"
    ):
        store.write_part(0, [GOOD], GRID)
    assert store.done() == set()
    assert not [path for path in store.out.rglob("*") if path.is_file()]


def test_a_damaged_part_is_named_with_what_to_do(store):
    store.write_part(0, [GOOD], GRID)
    store.part_file(0).write_bytes(store.part_file(0).read_bytes()[:-9])
    with pytest.raises(StoreError, match=r"part-00000.parquet cannot be read .*remove it and run again"):
        store.read_part(0)


def test_only_whole_parts_count_as_done(store):
    store.parts.mkdir()
    for name in ("part-00001.parquet.tmp", ".part-00002.parquet", "part-1.parquet", "part-00003.csv"):
        (store.parts / name).touch()
    (store.parts / "part-100000.parquet").touch()
    assert store.done() == {100000}


def test_the_leftovers_of_a_crash_are_removed_but_not_those_of_another_index(store):
    for number in (0, 1, 2, 5):
        folder = store.temporary(number)
        folder.mkdir(parents=True)
        (folder / "half").touch()
    (store.out / ".cfcam-77.part").touch()
    (store.out / "mine.txt").touch()
    store.clear_leftovers(index=1, count=4)
    left = sorted(path.name for path in store.hidden.glob("temporary-*"))
    assert left == ["temporary-0", "temporary-2"]
    assert [path.name for path in store.out.iterdir() if path.is_file()] == ["mine.txt"]


def test_a_wipe_removes_what_belongs_to_the_run_and_nothing_else(store):
    store.write_run({"fingerprint": {}})
    store.write_plan([Sample("a", "/a", name="a")], 4)
    store.write_part(0, [GOOD], GRID)
    pictures = ["a_cfcam.png", "overlays/part-00000/b_cfcam.png", "sub/c_cfcam.png"]
    foreign = ["mine.txt", "sub/mine.png", "shards/notes.md", "overlays/readme"]
    for name in (*pictures, *foreign):
        write_whole(store.out / name, b"x")
    outside = store.out.parent / "outside.png"
    outside.touch()
    store.wipe([*pictures, "never-written.png", "../outside.png"])
    left = {str(path.relative_to(store.out)) for path in store.out.rglob("*") if path.is_file()}
    assert left == set(foreign)
    assert outside.exists()
    assert store.run() is None
    assert store.done() == set()


@pytest.mark.parametrize("ours", [True, False])
def test_a_wipe_removes_the_report_and_no_page_of_somebody_else(store, ours):
    store.write_run({"fingerprint": {}})
    page = f"<!doctype html><title>{'CF-CAM report: out' if ours else 'My notes'}</title>"
    (store.out / "report.html").write_text(page)
    folder = store.out / "report_files"
    write_whole(folder / "r-0123456789ab/pictures/000-00.jpg", b"x")
    write_whole(folder / "r-0123456789ab/data-000.js", b"x")
    store.wipe([])
    assert (store.out / "report.html").exists() is not ours
    assert not folder.exists()
    write_whole(folder / "mine/r-0123456789ab", b"x")
    store.wipe([])
    assert (folder / "mine/r-0123456789ab").exists()


def test_run_json_of_another_format_is_refused(store):
    assert store.run() is None
    store.write_run({"grid": [1, 2]})
    assert store.run() == {"format": 1, "grid": [1, 2]}
    store.run_file.write_text(json.dumps({"format": 2}))
    with pytest.raises(StoreError, match="is of another format than 1"):
        store.run()
    store.run_file.write_text("{")
    with pytest.raises(StoreError, match=r"run.json cannot be read"):
        store.run()


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "deep/file"
    write_whole(path, b"first")
    with pytest.raises(TypeError), whole_file(path) as file:
        file.writelines([b"half", None])
    assert path.read_bytes() == b"first"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def samples(start: int, stop: int) -> list[Sample]:
    return [Sample(f"id{i}", f"/data/{i}.png", str(i % 3), None, f"sub/{i}") for i in range(start, stop)]


@pytest.mark.parametrize("group", [2, 7, 100])
def test_the_plan_gives_each_part_its_samples_through_all_segments(tmp_path, monkeypatch, group):
    monkeypatch.setattr("cfcam_gpu.dataset.store.plan._GROUP", group)
    path = tmp_path / "plan.parquet"
    first = write_plan(path, samples(0, 10), [10], 4)
    assert (first.parts, len(first)) == (3, 10)
    before = [first.samples(part) for part in range(3)]
    plan = first.extended(samples(10, 15)).extended(samples(15, 16))
    assert (plan.parts, len(plan), plan.segments) == (6, 16, [10, 5, 1])
    sizes = [4, 4, 2, 4, 1, 1]
    assert [plan.count(part) for part in range(6)] == sizes
    again = Plan(path)
    assert [again.samples(part) for part in range(3)] == before
    found = [sample for part in (5, 0, 3, 1, 2, 4) for sample in again.samples(part)]
    assert sorted(found, key=lambda s: int(s.sample_id[2:])) == samples(0, 16)
    assert [row["name"] for row in plan.columns("name")] == [f"sub/{i}" for i in range(16)]


def test_a_plan_that_is_gone_or_no_plan_is_said(tmp_path):
    with pytest.raises(StoreError, match=r"the plan .*plan.parquet is missing or damaged; --overwrite"):
        Plan(tmp_path / "plan.parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "plan.parquet")
    with pytest.raises(StoreError, match="is missing or damaged"):
        Plan(tmp_path / "plan.parquet")


def test_an_output_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot make the output folder .*file: File exists"):
        Store(tmp_path / "file").make()


def test_one_run_holds_an_index_and_gives_it_back(store):
    with ExitStack() as first, ExitStack() as second:
        claim = locks.claim(first, store.locks, 0, 1)
        assert claim.alone()
        with pytest.raises(
            StoreError, match=rf"out is being written by another run \(process {os.getpid()} on "
        ):
            locks.claim(second, store.locks, 0, 1)
    with ExitStack() as third:
        locks.claim(third, store.locks, 0, 1)


def test_shares_of_one_number_work_side_by_side_and_no_others(store):
    with ExitStack() as stack:
        one = locks.claim(stack, store.locks, 0, 3)
        assert one.alone()
        two = locks.claim(stack, store.locks, 2, 3)
        assert not one.alone()
        assert not two.alone()
        with pytest.raises(StoreError, match=r"by another run as index 2 of 3 \(process"):
            locks.claim(stack, store.locks, 2, 3)
        for count in (1, 2):
            with pytest.raises(StoreError, match=rf"that share it among 3 \(this one among {count}\)"):
                locks.claim(stack, store.locks, 0, count)
    with ExitStack() as stack:
        locks.claim(stack, store.locks, 1, 2)
