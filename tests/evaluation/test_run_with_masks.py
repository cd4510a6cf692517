"""Evaluations of images with masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cfcam_gpu.dataset import explain_dataset
from cfcam_gpu.dataset.store.plan import Plan
from cfcam_gpu.errors import InputError, StoreError
from cfcam_gpu.metrics.options import MetricOptions
from tests.helpers.small_evaluation import evaluate_small, finished, stored_rows, stored_table
from tests.helpers.smallnet import make_loaded, photo, save


def mask_of(picture: Image.Image) -> np.ndarray:
    """(45,60) uint8, 255 in a rectangle, of the size of a `photo`."""
    mask = np.zeros((picture.height, picture.width), np.uint8)
    mask[5:25, 10:40] = 255
    return mask


LOCALISATION = ("pointing", "energy_inside", "iou_25")


def test_masks_of_a_folder_a_manifest_and_boxes_agree(pictures, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    for i in range(3):
        Image.fromarray(mask_of(photo(i))).save(masks / f"p{i}.png")
    lines = [f"in/p{i}.png,masks/p{i}.png," for i in range(2)] + ['in/p2.png,,"10,5,40,25"', "in/p3.png,,"]
    (tmp_path / "list.csv").write_text("\n".join(["path,mask,box", *lines, "in/p4.png,,"]))
    metrics = {"metrics": ("localisation", "drop")}
    evaluate_small(pictures, tmp_path / "folder", masks=masks, **metrics)
    summary = evaluate_small([str(tmp_path / "list.csv")], tmp_path / "list", **metrics)
    names = ("masked", "average_drop", *LOCALISATION)
    folder, manifest = (stored_rows(tmp_path / name, *names) for name in ("folder", "list"))
    assert [{**row, "sample_id": f"in/{row['sample_id']}"} for row in folder] == manifest
    assert [row["masked"] for row in folder] == [True] * 6 + [False] * 4
    assert all(row["iou_25"] is not None for row in folder[:6])
    assert all(row["iou_25"] is None for row in folder[6:])
    assert finished(summary)["methods"]["cfcam"]["iou_25"]["n"] == 3
    assert finished(summary)["methods"]["cfcam"]["average_drop"]["n"] == 5


def test_the_default_measures_localisation_where_there_are_masks(pictures, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    Image.fromarray(mask_of(photo(0))).save(masks / "p0.png")
    few = {"methods": ["gradcam"], "measuring": MetricOptions(steps=3, noise_draws=1), "metrics": None}
    evaluate_small(pictures, tmp_path / "with", masks=masks, **few)
    evaluate_small(pictures, tmp_path / "without", **few)
    assert "iou_25" in stored_table(tmp_path / "with").column_names
    assert "iou_25" not in stored_table(tmp_path / "without").column_names


def test_a_mask_that_changed_is_noticed_when_a_run_goes_on(pictures, tmp_path):
    masks, out = tmp_path / "masks", tmp_path / "out"
    save(masks, p0=Image.fromarray(mask_of(photo(0))))
    evaluate_small(pictures, out, masks=masks)
    save(masks, p1=Image.fromarray(mask_of(photo(1))))
    with pytest.raises(
        StoreError, match=r"mask of sample 'p1\.png' is None, now it is .*masks/p1\.png; choose"
    ):
        evaluate_small(pictures, out, masks=masks)


def test_a_mask_of_another_size_is_a_failed_row(pictures, tmp_path):
    masks = save(tmp_path / "masks", p0=Image.fromarray(mask_of(photo(0))), p1=Image.new("L", (4, 4), 1))
    summary = evaluate_small(pictures, tmp_path / "out", masks=masks, metrics=["localisation"])
    (row,) = [
        row for row in stored_rows(tmp_path / "out", "status", "stage", "message") if row["status"] != "ok"
    ]
    assert (row["sample_id"], row["stage"]) == ("p1.png", "mask")
    assert "has 4 by 4 pixels, its image 60 by 45" in row["message"]
    assert summary.run.tally.skipped == 1


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('in/p0.png,,"4,5,3,9"', "line 2: box '4,5,3,9' must be x0,y0,x1,y1 in pixels with x0 < x1"),
        ("in/p0.png,,wide", "line 2: box 'wide' must be"),
        ("in/p0.png,../m.png,", r"line 2: mask '\.\./m\.png' leaves the manifest's folder"),
        ('in/p0.png,m.png,"0,0,4,4"', "line 2: there are a mask and a box; leave one empty"),
    ],
)
def test_a_mistake_in_a_manifests_masks_concerns_only_evaluations(tmp_path, line, message):
    (tmp_path / "list.csv").write_text(f"path,mask,box\n{line}\n")
    with pytest.raises(InputError, match=message):
        evaluate_small([str(tmp_path / "list.csv")], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    settings: dict[str, Any] = {"workers": 0, "device": "cpu", "overlays": "none", "layer": "conv:relu"}
    summary = explain_dataset([str(tmp_path / "list.csv")], tmp_path / "maps", make_loaded(), **settings)
    assert summary.tally.ok == 1


@pytest.mark.usefixtures("pictures")
def test_a_parquet_manifest_may_hold_boxes_as_lists(tmp_path):
    columns = {"path": ["in/p0.png", "in/p1.png"], "box": [[10.0, 5.0, 40.0, 25.0], None]}
    pq.write_table(pa.table(columns), tmp_path / "list.parquet")
    evaluate_small([str(tmp_path / "list.parquet")], tmp_path / "out", metrics=["localisation"])
    assert [row["masked"] for row in stored_rows(tmp_path / "out", "masked")] == [True, True, False, False]


def test_a_plan_of_before_masks_is_read(pictures, tmp_path):
    evaluate_small(pictures, tmp_path / "out")
    plan = pq.read_table(tmp_path / "out/plan.parquet")
    pq.write_table(plan.drop_columns(["mask"]), tmp_path / "old.parquet")
    assert [sample.mask for sample in Plan(tmp_path / "old.parquet").samples(0)] == [None] * 5
