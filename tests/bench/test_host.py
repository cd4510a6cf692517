"""The benchmark of the main process is a whole run: every image gets a row, and CPU time is counted."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from bench import host
from cfcam_gpu.dataset.execution.observer import Observer
from cfcam_gpu.dataset.store.schema import Row
from cfcam_gpu.dataset.store.store import Store


def test_every_image_gets_its_row(tmp_path: Path) -> None:
    count: list[Row] = []

    class Counting(Observer):
        def row(self, row: Row) -> None:
            count.append(row)

    with host.free_workers():
        host.explain(host.Options(batch=64, workers=1), 1100, tmp_path, Counting())
    rows = [row for part in (0, 1) for row in Store(tmp_path).read_rows(part)]
    assert len(rows) == len(count) == 1100
    assert {row["status"] for row in rows} == {"ok"}
    assert [row["target"] for row in rows[:3]] == [0, 1, 2]
    assert rows[1024]["target"] == 0
    expected = host.made_explanation(64)
    grid = rows[63]["grid"]
    assert grid is not None
    np.testing.assert_array_equal(grid, expected.grid[63].numpy())


def test_work_of_the_main_process_is_counted(monkeypatch) -> None:
    def busy(self: host._Clock, row: Row) -> None:
        real(self, row)
        start = time.thread_time()
        while time.thread_time() < start + 0.002:
            pass

    real = host._Clock.row
    monkeypatch.setattr(host, "PART", 64)
    before = host.run(host.Options(images=256, batch=16, workers=1))
    monkeypatch.setattr(host._Clock, "row", busy)
    after = host.run(host.Options(images=256, batch=16, workers=1))
    assert before["images"] == after["images"] == 128
    added = after["main_thread_cpu_ms_per_image"] - before["main_thread_cpu_ms_per_image"]
    assert 1.5 < added < 4
