"""Questions about scenes, comparisons by photo, and controls that change the step they are named after."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench import scenes
from bench.scene_controls import CONTROLS
from cfcam_gpu import CFCAM, ConfigError

#: A COCO category, and an ImageNet class that means it: espresso in a cup.
CUP, ESPRESSO = 47, 967


@pytest.fixture
def coco(tmp_path: Path, photos: list[Image.Image]) -> Path:
    """Two photos: espresso in a cup, and a cat without a mask."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for name, photo in (("coffee", photos[1]), ("cat", photos[0])):
        photo.save(tmp_path / "images" / f"{name}.jpg")
        mask = np.zeros((photo.height, photo.width), np.uint8)
        if name == "coffee":
            mask[: photo.height // 2, : photo.width // 2] = CUP
        Image.fromarray(mask).save(tmp_path / "masks" / f"{name}.png")
    return tmp_path


def test_a_question_is_a_class_that_the_model_sees_and_a_mask_shows(lite0, coco):
    (asked,) = scenes.questions(lite0, scenes.Options(coco=str(coco)))
    assert (asked.photo, asked.target) == ("coffee", ESPRESSO)
    assert ESPRESSO in json.loads(scenes.CATEGORIES.read_text())[str(CUP)]
    assert asked.mask is not None
    assert asked.mask.float().mean().item() == pytest.approx(0.25)
    assert asked.mask[:112, :112].all()


def test_a_run_measures_once_and_goes_on(coco, tmp_path, monkeypatch):
    options = scenes.Options(
        coco=str(coco),
        out=str(tmp_path / "out"),
        models=("efficientnet-lite0",),
        methods=("cfcam-sharp",),
        steps=0,
    )
    first = scenes.run(options)
    monkeypatch.setattr(scenes, "measure", None)
    assert scenes.run(options) == first
    methods = first["models"]["efficientnet-lite0"]["methods"]
    assert list(methods) == ["gradcam", "cfcam-sharp"]
    assert methods["gradcam"]["pointing"]["difference"] == 0
    assert methods["cfcam-sharp"]["average_precision"]["mean"] > 0


def test_every_column_is_measured_and_a_file_without_one_is_measured_again(coco, tmp_path):
    """ARCC is put together from the columns that it is made of."""
    options = scenes.Options(
        coco=str(coco),
        out=str(tmp_path / "out"),
        models=("efficientnet-lite0",),
        methods=("refinecam",),
        steps=2,
    )
    methods = scenes.run(options)["models"]["efficientnet-lite0"]["methods"]
    for of in methods.values():
        assert of.keys() - {"seconds"} == set(scenes.COLUMNS) == scenes.columns_of(2)
    for file in (tmp_path / "out").glob("*-refinecam.json"):
        stored = json.loads(file.read_text())
        mean = {name: values[0] for name, values in stored["values"].items()}
        parts = mean["coherency"], 1 - mean["complexity"], min(max(2 * mean["road_combined"], 0), 1)
        assert mean["arcc"] == pytest.approx(3 / sum(1 / max(part, 1e-12) for part in parts), rel=1e-4)
        del stored["values"]["adcc"]
        file.write_text(json.dumps(stored))
    again = scenes.run(options)["models"]["efficientnet-lite0"]["methods"]
    assert again["refinecam"]["adcc"] == methods["refinecam"]["adcc"]


def test_no_folder_is_an_error(lite0):
    with pytest.raises(ConfigError, match="pass --coco DIR or --photos DIR"):
        scenes.questions(lite0, scenes.Options())


def test_a_difference_is_taken_by_photo():
    """Ten answers of one photo are one observation: a difference in it alone proves nothing."""
    base = [0.0] * 20
    one_photo = scenes.compared([1.0] * 10 + [0.0] * 10, base, ["a"] * 10 + list("bcdefghijk"))
    assert one_photo["difference"] == pytest.approx(0.5)
    assert one_photo["p"] > 0.3
    everywhere = scenes.compared([1.0] * 20, base, [str(i) for i in range(20)])
    assert (everywhere["low"], everywhere["high"]) == (1.0, 1.0)
    assert everywhere["p"] < 0.001


def test_holm():
    assert scenes.holm({"a": 0.01, "b": 0.04, "c": 0.02, "d": 0.9}) == {
        "a": 0.04,
        "c": 0.06,
        "b": 0.08,
        "d": 0.9,
    }


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_changes_the_map_and_is_taken_back(lite0, photo_batch, name):
    cam, images = CFCAM(lite0.model, method="cfcam-sharp"), photo_batch[:2]
    before = cam(images, 1).grid
    with CONTROLS[name]():
        assert not torch.equal(cam(images, 1).grid, before)
    assert torch.equal(cam(images, 1).grid, before)
