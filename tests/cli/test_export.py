"""`cfcam export`."""

from __future__ import annotations

import json
from pathlib import Path

from tests.helpers.command import FAILED, OK, USAGE, Outcome, cfcam
from tests.helpers.smallnet import photo, run, save


def test_the_command_exports_and_says_how_much(tmp_path: Path):
    out, maps, new = tmp_path / "out", tmp_path / "maps", tmp_path / "new"
    run(save(tmp_path / "in", a=photo(1), b=photo(2)), out)
    assert cfcam("export", str(out), str(maps), "--to", "fiftyone") == Outcome(
        OK, f"exported 2 samples to {maps}\n", ""
    )
    assert len(json.loads((maps / "samples.json").read_text())["samples"]) == 2
    again = cfcam("export", str(out), str(maps), "--to", "png")
    assert (again.status, again.err) == (
        FAILED,
        f"error: {maps} exists; name a file or folder that does not\n",
    )
    for arguments, message in (
        (
            ("--to", "hdf5"),
            "unknown format 'hdf5'; choose one of: npz, zarr, fiftyone, png, csv, jsonl, parquet, coco",
        ),
        (("--to", "npz", "--size", "big"), "--size must be like 224 or 224x320 (height x width), got 'big'"),
    ):
        wrong = cfcam("export", str(out), str(new), *arguments)
        assert (wrong.status, wrong.err) == (USAGE, f"error: {message}\n")
