"""The output folder: rows come back as they were written, and what has its name is whole."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from cfcam_gpu.dataset.sources.sample import Sample
from cfcam_gpu.dataset.store import atomic_files as files
from cfcam_gpu.dataset.store.atomic_files import atomic_file, write_atomically
from cfcam_gpu.dataset.store.schema import arrow_schema
from cfcam_gpu.dataset.store.store import Store
from cfcam_gpu.errors import InputError, StoreError
from tests.helpers.result_rows import BAD, GOOD, MAP_SHAPE, assert_rows


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "out")
    store.make_folder()
    return store


def test_rows_come_back_as_they_were_written(store):
    store.write_part(3, [GOOD, BAD], MAP_SHAPE)
    assert store.read_part(3).schema.equals(arrow_schema(MAP_SHAPE))
    assert_rows(store.read_rows(3), [GOOD, BAD])
    assert store.read_rows(3, ["status"]) == [{"status": "ok"}, {"status": "error"}]
    assert store.finished_parts() == {3}
    assert store.part_file(3).name == "part-00003.parquet"


def test_a_part_that_cannot_be_written_leaves_nothing_behind(store, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(
        StoreError, match=r"cannot write .*part-00000.parquet: No space left on device; what is"
    ):
        store.write_part(0, [GOOD], MAP_SHAPE)
    assert store.finished_parts() == set()
    assert not [path for path in store.out.rglob("*") if path.is_file()]


def test_a_damaged_part_is_named_with_what_to_do(store):
    store.write_part(0, [GOOD], MAP_SHAPE)
    store.part_file(0).write_bytes(store.part_file(0).read_bytes()[:-9])
    with pytest.raises(StoreError, match=r"part-00000.parquet cannot be read .*remove it and run again"):
        store.read_part(0)


def test_only_whole_parts_count_as_done(store):
    store.parts_folder.mkdir()
    for name in ("part-00001.parquet.tmp", ".part-00002.parquet", "part-1.parquet", "part-00003.csv"):
        (store.parts_folder / name).touch()
    (store.parts_folder / "part-100000.parquet").touch()
    assert store.finished_parts() == {100000}


def test_the_leftovers_of_a_crash_are_removed_but_not_those_of_another_rank(store):
    for number in (0, 1, 2, 5):
        folder = store.temporary_folder(number)
        folder.mkdir(parents=True)
        (folder / "half").touch()
    (store.out / ".cfcam-77.part").touch()
    (store.out / "mine.txt").touch()
    store.clear_leftovers(rank=1, world_size=4)
    left = sorted(path.name for path in store.hidden_folder.glob("temporary-*"))
    assert left == ["temporary-0", "temporary-2"]
    assert [path.name for path in store.out.iterdir() if path.is_file()] == ["mine.txt"]


def test_who_still_writes_after_a_run_ended_does_not_make_its_folder_again(store):
    temporary = store.make_temporary_folder(0)
    (temporary / "half.part").write_bytes(b"half")

    def write_late() -> None:
        with atomic_file(store.out / "late.png", temporary / "late.part") as file:
            store.remove_temporary_folder(0)
            file.write(b"late")

    with pytest.raises(FileNotFoundError):
        write_late()
    with pytest.raises(FileNotFoundError):
        write_atomically(store.out / "later.png", b"later", temporary / "later.part")
    assert not list(store.out.glob("late*"))
    assert not list(store.hidden_folder.glob("temporary-*"))


def test_a_wipe_removes_what_belongs_to_the_run_and_nothing_else(store):
    store.write_run({"fingerprint": {}})
    store.write_plan([Sample("a", "/a", name="a")], 4)
    store.write_part(0, [GOOD], MAP_SHAPE)
    pictures = ["a_cfcam.png", "overlays/part-00000/b_cfcam.png", "sub/c_cfcam.png"]
    foreign = ["mine.txt", "sub/mine.png", "shards/notes.md", "overlays/readme"]
    for name in (*pictures, *foreign):
        write_atomically(store.out / name, b"x")
    outside = store.out.parent / "outside.png"
    outside.touch()
    store.wipe([*pictures, "never-written.png", "../outside.png"])
    left = {str(path.relative_to(store.out)) for path in store.out.rglob("*") if path.is_file()}
    assert left == set(foreign)
    assert outside.exists()
    assert store.read_run() is None
    assert store.finished_parts() == set()


@pytest.mark.parametrize("ours", [True, False])
def test_a_wipe_removes_the_report_and_no_page_of_somebody_else(store, ours):
    store.write_run({"fingerprint": {}})
    page = f"<!doctype html><title>{'CF-CAM report: out' if ours else 'My notes'}</title>"
    (store.out / "report.html").write_text(page)
    folder = store.out / "report_files"
    write_atomically(folder / "r-0123456789ab/pictures/000-00.jpg", b"x")
    write_atomically(folder / "r-0123456789ab/data-000.js", b"x")
    store.wipe([])
    assert (store.out / "report.html").exists() is not ours
    assert not folder.exists()
    write_atomically(folder / "mine/r-0123456789ab", b"x")
    store.wipe([])
    assert (folder / "mine/r-0123456789ab").exists()


def test_run_json_of_another_format_is_refused(store):
    assert store.read_run() is None
    store.write_run({"grid": [1, 2]})
    assert store.read_run() == {"format": 1, "grid": [1, 2]}
    store.run_file.write_text(json.dumps({"format": 2}))
    with pytest.raises(StoreError, match="must have format 1 and has another"):
        store.read_run()
    store.run_file.write_text("{")
    with pytest.raises(StoreError, match=r"run.json cannot be read"):
        store.read_run()


def test_pipes_in_the_place_of_the_runs_files_do_not_hang(store):
    for path in (store.run_file, store.plan_file):
        path.unlink(missing_ok=True)
        os.mkfifo(path)
    with pytest.raises(StoreError, match=r"run.json cannot be read \(.*not a regular file\)"):
        store.read_run()
    with pytest.raises(StoreError, match=r"the plan .* is missing or damaged"):
        store.read_plan()


def test_an_output_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot make the output folder .*file: File exists"):
        Store(tmp_path / "file").make_folder()
