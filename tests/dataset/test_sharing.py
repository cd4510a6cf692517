"""Several processes share an output folder: each does its own parts, and no two do the same one."""

from __future__ import annotations

import os
import time

import pytest

from cfcam_gpu.dataset import open_results
from cfcam_gpu.dataset.execution.observer import Observer
from cfcam_gpu.dataset.store.schema import Row
from cfcam_gpu.errors import StoreError
from tests.helpers.smallnet import Recorder, photo, rows, run, save


def test_shares_do_their_own_parts_and_together_all_of_them(tmp_path):
    folder = save(tmp_path / "in", **{f"p{i}": photo(i) for i in range(7)})
    run(folder, tmp_path / "whole", part_size=2, batch_size=2)
    shared = {"part_size": 2, "batch_size": 2, "world_size": 3}
    out, left = tmp_path / "out", []
    for index in (2, 0, 1):
        summary = run(folder, out, rank=index, **shared)
        left.append(summary.others_left)
        assert summary.parts == list(range(index, 4, 3))
        assert summary.total == sum(min(2, 7 - 2 * part) for part in summary.parts)
    assert left == [3, 1, 0]
    assert open_results(out).table().equals(open_results(tmp_path / "whole").table())


def test_new_inputs_wait_while_others_share_the_folder(tmp_path):
    folder, out = save(tmp_path / "in", a=photo(1)), tmp_path / "out"

    class Intruder(Observer):
        def __init__(self) -> None:
            self.notes: list[str] = []

        def row(self, _row: Row) -> None:
            save(folder, b=photo(2))
            other = Recorder()
            run(folder, out, rank=1, world_size=2, observer=other)
            self.notes += other.notes

    intruder = Intruder()
    run(folder, out, world_size=2, observer=intruder)
    assert intruder.notes == [f"1 new sample is left to the next run, since others are writing to {out}"]
    assert len(rows(out)) == 1
    run(folder, out)
    assert [row["sample_id"] for row in rows(out)] == ["a.png", "b.png"]


def test_a_second_run_into_the_folder_at_the_same_time_is_refused(tmp_path):
    folder, out, caught = save(tmp_path / "in", a=photo(1)), tmp_path / "out", []

    class Second(Observer):
        def row(self, _row: Row) -> None:
            with pytest.raises(StoreError, match=rf"by another run \(process {os.getpid()} on"):
                run(folder, out)
            caught.append(time.monotonic())

    run(folder, out, observer=Second())
    assert len(caught) == 1
