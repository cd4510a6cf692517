"""A run resumes the stored one: new inputs are added, failed rows redone, and another run in the folder refused."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from cfcam_gpu.config import CFCAMConfig
from cfcam_gpu.dataset import open_results
from cfcam_gpu.dataset.execution.observer import Tally
from cfcam_gpu.errors import StoreError
from tests.helpers.smallnet import PLAIN, Recorder, make_loaded, photo, rows, run, save


@pytest.mark.parametrize("stop_after", [1, 2, 3, 5, 6])
def test_a_run_goes_on_where_it_was_ended(mixed, tmp_path, stop_after):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(mixed, whole, part_size=2, batch_size=2)
    with pytest.raises(KeyboardInterrupt):
        run(mixed, broken, part_size=2, batch_size=2, observer=Recorder(stop_after))
    in_parts, kept = (stop_after - 1) // 2 * 2, (stop_after + 1) // 2 * 2
    assert len(open_results(broken)) == in_parts
    rest = Recorder()
    run(mixed, broken, batch_size=2, observer=rest)
    assert rest.ids == [f"{name}.png" for name in "abcdef"[kept:]]
    assert open_results(broken).table().equals(open_results(whole).table())


def test_new_inputs_are_added_and_lost_ones_become_error_rows(tmp_path):
    folder, out = save(tmp_path / "in", b=photo(1), d=photo(2), e=photo(3)), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(folder, out, part_size=1, batch_size=1, observer=Recorder(2))
    first = open_results(out).table()
    (folder / "e.png").unlink()
    save(folder, a=photo(4), **{"d-2": photo(5)})
    (folder / "D.jpg").write_bytes((folder / "a.png").read_bytes())
    observer = Recorder()
    summary = run(folder, out, observer=observer)
    assert observer.notes == [
        "1 planned sample is no longer among the inputs; the run keeps it",
        f"3 new samples are added to the run in {out}",
    ]
    stored_rows = rows(out)
    assert [row["sample_id"] for row in stored_rows] == [
        "b.png",
        "d.png",
        "e.png",
        "D.jpg",
        "a.png",
        "d-2.png",
    ]
    assert open_results(out).table().slice(0, 1).equals(first)
    assert (stored_rows[2]["status"], stored_rows[2]["stage"], stored_rows[2]["error_type"]) == (
        "error",
        "read",
        "FileNotFoundError",
    )
    names = [row["overlay"] for row in stored_rows if row["overlay"]]
    assert len({name.casefold() for name in names}) == 5
    assert summary.tally == Tally(ok=5, skipped=1, blank=summary.tally.blank)


def test_the_same_id_in_another_place_is_refused(tmp_path):
    out = tmp_path / "out"
    run(save(tmp_path / "one", a=photo(1)), out)
    with pytest.raises(StoreError, match=r"sample 'a.png' is .*/one/a.png, now it is .*/two/a.png; choose"):
        run(save(tmp_path / "two", a=photo(1)), out)


DIFFERENT: dict[str, tuple[dict[str, Any], str]] = {
    "config": ({"config": CFCAMConfig(filter="none")}, "config.filter was 'bilateral', now 'none'"),
    "layer": ({"layer": "conv"}, "layer was 'conv:relu', now 'conv'"),
    "target": ({"target": 1}, "target was None, now 1"),
    "precision": ({"precision": "bfloat16"}, "precision was 'float32', now 'bfloat16'"),
    "size": (
        {"model": make_loaded(dataclasses.replace(PLAIN, size=(40, 32)))},
        r"preprocess.size was \[32, 32\], now \[40, 32\]",
    ),
    "weights": ({"model": "other"}, r"weights_sha256 was '[0-9a-f]{19}….{4}, now '[0-9a-f]{19}…"),
    "overlays": (
        {"overlays": "none"},
        "overlays.kind was 'png', now 'none'; overlays.cmap was 'inferno', now None",
    ),
    "alpha": ({"alpha": 0.5}, "overlays.alpha was 0.4, now 0.5"),
    "part size": ({"part_size": 3}, "part_size was 2, now 3"),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_another_run_in_the_folder_is_refused_with_the_fields_that_differ(tmp_path, name):
    settings, message = DIFFERENT[name]
    if settings.get("model") == "other":
        other = make_loaded()
        with torch.no_grad():
            next(other.model.parameters())[0, 0, 0, 0] += 1e-6
        settings = {"model": other}
    folder, out = save(tmp_path / "in", a=photo(1)), tmp_path / "out"
    run(folder, out, part_size=2)
    before = (out / "run.json").read_bytes()
    with pytest.raises(
        StoreError,
        match=rf"out holds another run: {message}.*; choose another output folder, or "
        r"--overwrite \(in Python overwrite=True\)",
    ):
        run(folder, out, **settings)
    assert (out / "run.json").read_bytes() == before
    (out / "mine.txt").write_text("keep")
    run(folder, out, overwrite=True, **settings)
    assert (out / "mine.txt").exists()
    assert (out / "a_cfcam.png").exists() == (name != "overlays")


def test_parts_without_run_json_are_no_finished_work(tmp_path):
    folder, out = save(tmp_path / "in", a=photo(1)), tmp_path / "out"
    run(folder, out)
    (out / "run.json").unlink()
    with pytest.raises(StoreError, match=r"shards holds parts but .*run.json is missing"):
        run(folder, out)
    run(folder, out, overwrite=True)
    assert len(rows(out)) == 1


@pytest.mark.parametrize("name", ["plan.parquet", "run.json"])
def test_a_damaged_store_can_be_begun_anew(tmp_path, name):
    folder, out = save(tmp_path / "in", a=photo(1)), tmp_path / "out"
    run(folder, out)
    (out / name).write_bytes(b"damaged")
    with pytest.raises(StoreError, match=rf"{name} (is missing or damaged|cannot be read)"):
        run(folder, out)
    run(folder, out, overwrite=True)
    assert len(rows(out)) == 1


def test_a_folder_that_cannot_be_read_is_named_and_costs_nothing_that_is_done(tmp_path, monkeypatch):
    folder, out = save(tmp_path / "in", a=photo(1)), tmp_path / "out"
    save(folder / "sub", b=photo(2))
    scandir: Callable[[Any], Any] = os.scandir

    def denied(path: object) -> object:
        if str(path).endswith("/sub"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    with pytest.raises(KeyboardInterrupt):
        run(folder, out, part_size=1, batch_size=1, observer=Recorder(2))
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", denied)
        assert run(folder, out).tally == Tally(ok=2, skipped=1)
    *done, failed = rows(out)
    assert [row["sample_id"] for row in done] == ["a.png", "sub/b.png"]
    assert re.search(r"folder '.*/in/sub' cannot be read: Permission denied", failed["message"])
    assert run(folder, out).tally.ok == 2


def test_retry_failed_redoes_the_failed_rows_alone(mixed, tmp_path):
    out = tmp_path / "out"
    run(mixed, out, part_size=2)
    before = rows(out)
    save(mixed, b=photo(7))
    observer = Recorder()
    summary = run(mixed, out, retry_failed=True, observer=observer)
    assert observer.ids == ["b.png", "d.png", "f.png"]
    after = rows(out)
    for old, new in zip(before, after, strict=True):
        if old["sample_id"] != "b.png":
            np.testing.assert_equal(new, old)
    assert after[1]["status"] == "ok"
    assert (out / "b_cfcam.png").exists()
    assert summary.tally == Tally(ok=4, skipped=2, blank=summary.tally.blank)
    assert (summary.before, summary.now) == (3, 3)
