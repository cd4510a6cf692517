"""Data and pictures inside the page, or in a folder beside it."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import unquote

import pytest

from cfcam_gpu.report import write_report
from tests.helpers.stored_run import (
    embedded,
    made_store,
)


@pytest.mark.parametrize(("count", "folder"), [(7, False), (8, True)])
def test_above_the_limit_of_one_file_data_lie_in_a_folder_beside_it(
    tmp_path: Path, *, count: int, folder: bool
):
    store = made_store(tmp_path / "out", count)
    page = write_report(store, tmp_path / "a #1 50%.html", self_contained=7)
    index = embedded(page)
    assert bool(index["sources"]) == folder
    assert (tmp_path / "a #1 50%_files").is_dir() == folder
    if folder:
        (source,) = index["sources"]
        assert source.startswith("a%20%231%2050%25_files/r-")
        text = (tmp_path / unquote(source)).read_text()
        assert text.startswith("cfcamBlock(0,{")
        assert len(json.loads(text.removeprefix("cfcamBlock(0,").removesuffix(");\n"))["grids"]) == 8


def test_only_its_own_older_files_are_removed(tmp_path: Path):
    store, page = made_store(tmp_path / "out", 9), tmp_path / "report.html"
    write_report(store, page, self_contained=1, limit=5)
    foreign = tmp_path / "report_files" / "mine.txt"
    foreign.write_text("keep")
    write_report(store, page, self_contained=1, limit=6)
    folders = [path for path in (tmp_path / "report_files").iterdir() if path.is_dir()]
    assert len(folders) == 1
    assert embedded(page)["sources"] == [f"report_files/{folders[0].name}/data-000.js"]
    assert foreign.read_text() == "keep"
    write_report(store, page)  # all in one file again
    assert list((tmp_path / "report_files").iterdir()) == [foreign]
    foreign.unlink()
    write_report(store, page, self_contained=1)
    write_report(store, page)
    assert not (tmp_path / "report_files").exists()


def test_blocks_hold_a_hundred_samples_each(tmp_path: Path):
    done: list[tuple[int, int]] = []
    store = made_store(tmp_path / "out", 205)
    page = write_report(store, self_contained=0, on_progress=lambda *counts: done.append(counts))
    assert len(embedded(page)["sources"]) == 3
    assert done == [(100, 205), (200, 205), (205, 205)]
