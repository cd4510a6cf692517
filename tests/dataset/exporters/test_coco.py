"""The COCO data set file, as COCO's own package reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy import ndimage

from cfcam_gpu.dataset.exporters.coco import marked_box
from cfcam_gpu.dataset.store.export import export
from cfcam_gpu.images.overlay import upsample_grid


def test_maps_are_annotations_of_their_images(results, tmp_path: Path):
    assert export(results, "coco", tmp_path / "maps.json") == 2
    content = json.loads((tmp_path / "maps.json").read_text())
    assert content["images"] == [
        {"id": 1, "file_name": "made/00000.jpg", "width": 400, "height": 300},
        {"id": 2, "file_name": "made/00001.jpg", "width": 400, "height": 300},
    ]
    assert content["categories"] == [{"id": 3, "name": "cat"}, {"id": 5, "name": "class 5"}]
    first, second = content["annotations"]
    assert (first["id"], first["image_id"], first["category_id"]) == (1, 1, 3)
    assert first["score"] == pytest.approx(0.3)
    assert (second["id"], second["image_id"], second["category_id"]) == (2, 1, 5)


def test_cocos_own_package_reads_and_measures_it(results, tmp_path: Path):
    export(results, "coco", tmp_path / "maps.json")
    truth = COCO(str(tmp_path / "maps.json"))
    found = truth.loadRes(json.loads((tmp_path / "maps.json").read_text())["annotations"])
    measured = COCOeval(truth, found, "bbox")
    measured.evaluate()
    measured.accumulate()
    measured.summarize()
    assert measured.stats[0] == pytest.approx(1.0)  # boxes compared with themselves


def test_the_box_is_around_the_largest_region_above_a_fifth_of_the_maximum():
    grid = np.random.default_rng(0).random((7, 7), np.float32) ** 4
    row: Any = {"grid": grid, "box": [10.0, 20.0, 234.0, 244.0], "width": 500, "height": 400}
    marked = marked_box(row, (224, 224))
    assert marked is not None
    box, peak = marked
    heatmap = upsample_grid(grid, (224, 224))
    labels, count = ndimage.label(heatmap >= 0.2, structure=np.ones((3, 3)))
    assert count > 1
    largest = 1 + np.argmax(ndimage.sum_labels(np.ones_like(labels), labels, range(1, count + 1)))
    rows, columns = np.nonzero(labels == largest)
    expected = [columns.min() + 10, rows.min() + 20, np.ptp(columns) + 1, np.ptp(rows) + 1]
    assert box == pytest.approx(expected)
    y, x = np.unravel_index(heatmap.argmax(), heatmap.shape)
    assert peak == [x + 10.5, y + 20.5]


def test_a_box_ends_where_the_image_does():
    row: Any = {
        "grid": np.ones((2, 2), np.float32),
        "box": [-10.0, -10.0, 110.0, 70.0],
        "width": 100,
        "height": 60,
    }
    assert marked_box(row, (8, 8)) == ([0, 0, 100, 60], [0.0, 0.0])
    outside = np.zeros((4, 4), np.float32)
    outside[:, 0] = 1
    assert marked_box({**row, "grid": outside, "box": [-300.0, 0.0, 100.0, 60.0]}, (4, 4)) is None
    assert marked_box({**row, "grid": np.zeros((2, 2), np.float32)}, (8, 8)) is None
