"""CSV, JSON lines and Parquet, read back by other readers."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from cfcam_gpu.dataset.store.export import export
from cfcam_gpu.dataset.store.schema import COLUMNS


def test_csv_has_a_line_for_each_row(results, tmp_path: Path):
    assert export(results, "csv", tmp_path / "maps.csv") == 4
    with (tmp_path / "maps.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    columns = [name for name in COLUMNS if name != "grid"]
    box = columns.index("box")
    edges = ["box_left", "box_top", "box_right", "box_bottom"]
    assert list(lines[0]) == [*columns[:box], *edges, *columns[box + 1 :]]
    rows = list(results.rows())
    assert [line["sample_id"] for line in lines] == [row["sample_id"] for row in rows]
    assert lines[3]["message"] == 'a, "b"\n=1+1'
    assert [lines[1][edge] for edge in edges] == ["-50", "0", "450", "300"]
    assert [lines[3][name] for name in ("target", "prob", "box_left", "label")] == [""] * 4
    assert lines[0]["target_prob"] == "0.3"
    frame = pd.read_csv(tmp_path / "maps.csv")
    np.testing.assert_array_equal(
        frame["heatmap_max"].astype(np.float32)[:3], [row["heatmap_max"] for row in rows[:3]]
    )


def test_json_lines_hold_the_maps(results, tmp_path: Path):
    assert export(results, "jsonl", tmp_path / "maps.jsonl") == 4
    lines = [json.loads(line) for line in (tmp_path / "maps.jsonl").read_text("utf-8").splitlines()]
    for line, row in zip(lines, results.rows(), strict=True):
        assert list(line) == list(COLUMNS)
        if row["grid"] is None:
            assert line["grid"] is None
        else:
            np.testing.assert_array_equal(np.float32(line["grid"]), row["grid"])
        for name in ("sample_id", "status", "message", "target", "blank", "box", "label"):
            assert line[name] == row[name]
    assert (lines[0]["target_prob"], lines[0]["heatmap_max"], lines[0]["grid"][1][4]) == (0.3, 0.1, 0.1)


def test_parquet_is_one_file_of_all_rows(results, tmp_path: Path):
    assert export(results, "parquet", tmp_path / "maps.parquet") == 4
    table = pq.read_table(tmp_path / "maps.parquet")
    assert table.equals(results.table())
    assert pq.ParquetFile(tmp_path / "maps.parquet").num_row_groups == 2
