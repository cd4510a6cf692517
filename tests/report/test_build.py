"""Writing the report: what the page holds and says of the run, and what is refused."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest

from cfcam_gpu.dataset.store.results import open_results
from cfcam_gpu.dataset.store.store import Store
from cfcam_gpu.errors import ConfigError, InputError, StoreError
from cfcam_gpu.report import write_report
from tests.helpers.stored_run import (
    GRID,
    Row,
    column,
    embedded,
    failed_row,
    made_store,
)


def test_a_small_run_is_one_file_with_every_row_and_its_picture(demo: Path):
    page = write_report(demo, demo.parent / "one.html")
    index, block = embedded(page), embedded(page, "block-0")
    assert index["sources"] == []
    assert not (demo.parent / "one_files").exists()
    rows = list(open_results(demo).rows())
    assert column(index, "sample_id") == [row["sample_id"] for row in rows]
    assert column(index, "message")[-1] == "activations contain NaN or Inf"
    pictures = [picture is not None for picture in block["pictures"]]
    assert pictures == [True] * 22 + [False, False, False, True]
    assert block["notes"][22:25] == ["the file does not exist", *["it could not be decoded"] * 2]
    first = np.frombuffer(base64.b64decode(block["grids"][0]), "<f4").reshape(GRID)
    np.testing.assert_array_equal(first, rows[0]["grid"])
    assert block["grids"][-1] is None


def test_the_default_place_is_in_the_results_folder_and_a_second_report_replaces_it(tmp_path: Path):
    store = made_store(tmp_path / "out", 3)
    first = write_report(store)
    assert first == tmp_path / "out" / "report.html"
    before = first.read_bytes()
    assert write_report(store).read_bytes() == before


def test_a_run_begun_anew_takes_the_older_runs_report_away(tmp_path: Path):
    out = made_store(tmp_path / "out", 9)
    elsewhere = write_report(out, tmp_path / "kept.html", self_contained=1)
    page = write_report(out, self_contained=1)
    assert page.exists()
    Store(out).wipe([])
    assert not page.exists()
    assert not (out / "report_files").exists()
    assert elsewhere.exists()
    assert (tmp_path / "kept_files").is_dir()


def test_a_choice_is_said_on_the_page_with_its_numbers(tmp_path: Path):
    def change(number: int) -> Row:
        if number < 4:
            return failed_row(number, "decode", "ImageError", "broken")
        return {"blank": True, "grid": np.zeros(GRID, np.float32), "heatmap_max": 0.0} if number < 7 else {}

    store = made_store(tmp_path / "out", 60, change)
    text = write_report(store, limit=20, seed=5).read_text()
    assert (
        "This page shows 20 of 60 samples: 4 of 4 errors, 3 of 3 blank maps, 13 of 53 other explained samples; "
        "drawn by predicted class and status, errors and blank maps first (seed 5)."
    ) in text
    assert "<b>60</b> samples" in text
    assert "<b>3</b> of them blank" in text


def test_an_unfinished_run_is_said_to_be(tmp_path: Path):
    store = made_store(tmp_path / "out", 130)
    (store / "shards" / "part-00001.parquet").unlink()
    text = write_report(store).read_text()
    assert "The run is not finished: 66 of 130 samples are done so far." in text


def test_a_folder_without_results_is_refused(tmp_path: Path):
    with pytest.raises(StoreError, match=r"holds no results"):
        write_report(tmp_path)


def test_a_run_without_a_finished_part_is_refused(tmp_path: Path):
    store = made_store(tmp_path / "out", 1)
    (store / "shards" / "part-00000.parquet").unlink()
    with pytest.raises(
        InputError, match=r"holds no finished results yet; let cfcam explain finish its first"
    ):
        write_report(store)


def test_a_damaged_part_is_named(tmp_path: Path):
    store = made_store(tmp_path / "out", 1)
    (store / "shards" / "part-00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(StoreError, match=r"part-00000\.parquet cannot be read"):
        write_report(store)


def test_a_folder_in_the_place_of_the_page_is_refused(tmp_path: Path):
    store = made_store(tmp_path / "out", 1)
    with pytest.raises(InputError, match=r"is a folder; give the name of an HTML file"):
        write_report(store, tmp_path)


def test_a_page_that_cannot_be_written_is_named(tmp_path: Path):
    store = made_store(tmp_path / "out", 1)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write the report '.*page\.html': "):
        write_report(store, tmp_path / "file" / "page.html")


def test_a_limit_of_nothing_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"at least 1 sample, got a limit of 0"):
        write_report(made_store(tmp_path / "out", 1), limit=0)
