"""Questions about photos, rows that are measured once, and controls that change the step they are named after."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from bench import scene_questions, scene_rows, scenes
from bench.scene_controls import CONTROLS
from bench.scene_rows import Key, Row, Rows
from cfcam_gpu import CFCAM, ConfigError
from cfcam_gpu.models import LoadedModel

#: A COCO category, and an ImageNet class that means it: espresso in a cup. A cat.
CUP, ESPRESSO, CAT = 47, 967, 285

MODELS = ("efficientnet-lite0",)


@pytest.fixture
def coco(tmp_path: Path, photos: list[Image.Image]) -> Path:
    """Two photos: a cat without a mask, which is of the half for the search, and espresso in a cup, of the other."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for name, photo in (("a_cat", photos[0]), ("coffee", photos[1])):
        photo.save(tmp_path / "images" / f"{name}.jpg")
        mask = np.zeros((photo.height, photo.width), np.uint8)
        if name == "coffee":
            mask[: photo.height // 2, : photo.width // 2] = CUP
        Image.fromarray(mask).save(tmp_path / "masks" / f"{name}.png")
    return tmp_path


@pytest.fixture
def classes(tmp_path: Path, photos: list[Image.Image]) -> Path:
    """Photos of espresso and of a cat, and a cat that is called a shark."""
    folder = tmp_path / "classes"
    folder.mkdir()
    for name, photo in (("0967_espresso", photos[1]), ("0285_cat", photos[0]), ("0002_shark", photos[0])):
        photo.save(folder / f"{name}.jpg")
    return folder


def options(tmp_path: Path, **changes: object) -> scenes.Options:
    settings = {"out": str(tmp_path / "out"), "models": MODELS, "methods": ("cfcam-sharp",), "steps": 2}
    return scenes.Options(**{**settings, **changes})  # type: ignore[arg-type]


def test_a_question_is_a_class_that_the_model_sees_and_a_mask_shows(lite0, coco):
    (asked,) = scene_questions.scene_questions(lite0, coco, "unseen", 0)
    assert (asked.photo, asked.target, asked.kind) == ("coffee", ESPRESSO, str(CUP))
    assert ESPRESSO in json.loads(scene_questions.CATEGORIES.read_text())[str(CUP)]
    assert asked.mask is not None
    assert asked.mask.float().mean().item() == pytest.approx(0.25)
    assert asked.mask[:112, :112].all()
    assert not scene_questions.scene_questions(lite0, coco, "search", 0)


def test_a_photo_is_asked_about_if_the_model_sees_its_class(lite0, classes):
    asked = scene_questions.photo_questions(lite0, classes, "all", 0)
    assert {q.target for q in asked} == {CAT, ESPRESSO}
    assert all(q.mask is None for q in asked)
    assert len(scene_questions.photo_questions(lite0, classes, "all", 1)) == 1


def test_halves_have_no_photo_in_common():
    files = [Path(f"{number:04}_name.jpg") for number in range(501)]
    for mixed in (False, True):
        halves = [scene_questions.halved(files, half, mixed=mixed) for half in ("search", "unseen")]
        assert sorted(halves[0] + halves[1]) == files
        assert [len(half) for half in halves] == [251, 250]


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (lambda coco: (coco / "masks" / "coffee.png").unlink(), "coffee.jpg has no mask: .*coffee.png is missing"),
        (lambda coco: [file.unlink() for file in (coco / "images").iterdir()], "has no photos"),
    ],
)  # fmt: skip
def test_a_folder_that_lacks_something_is_told(lite0, coco, broken, sentence):
    broken(coco)
    with pytest.raises(ConfigError, match=sentence):
        scene_questions.scene_questions(lite0, coco, "all", 0)


def test_a_photo_without_the_number_of_its_class_is_told(lite0, classes):
    (classes / "0002_shark.jpg").rename(classes / "shark.jpg")
    with pytest.raises(ConfigError, match=r"NNNN the ImageNet class, got shark\.jpg"):
        scene_questions.photo_questions(lite0, classes, "all", 0)


def test_no_folder_and_unknown_methods_are_errors(tmp_path):
    with pytest.raises(ConfigError, match="pass --coco DIR or --photos DIR"):
        scenes.run(options(tmp_path))
    with pytest.raises(ConfigError, match=r"unknown methods \['sharp'\]; known: gradcam, cfcam"):
        scenes.run(options(tmp_path, methods=("sharp",)))


def test_a_run_measures_each_question_and_method_once(coco, classes, tmp_path, monkeypatch):
    asked = options(tmp_path, coco=str(coco), photos=str(classes), photos_limit=1)
    first = scenes.run(asked)
    parts = first["models"]["efficientnet-lite0"]
    assert list(parts) == ["scenes", "photos"]
    for part, of in parts.items():
        assert (of["half"], of["questions"], of["asked"]) == ("unseen", 1, 1)
        assert list(of["methods"]) == ["gradcam", "cfcam-sharp"]
        for figures in of["methods"].values():
            assert all(np.isfinite(figures[column]["mean"]) for column in scenes.COLUMNS[part])
        assert of["methods"]["gradcam"]["average_drop"]["difference"] == 0
        assert of["methods"]["cfcam-sharp"]["increase"]["rival"]["method"] == "gradcam"
    sharp = parts["photos"]["methods"]["cfcam-sharp"]
    of = {name: sharp[name]["mean"] for name in scenes.COLUMNS["photos"]}
    made_of = of["coherency"], 1 - of["complexity"], min(max(2 * of["road_combined"], 0), 1)
    assert of["arcc"] == pytest.approx(3 / sum(1 / max(part, 1e-12) for part in made_of), rel=1e-2)
    rows = (tmp_path / "out" / "rows.jsonl").read_text()
    assert len(rows.splitlines()) == 4

    (tmp_path / "out" / "rows.jsonl").write_text(rows[: rows.rindex("{") + 40])  # stopped while it wrote
    spy = Mock(side_effect=scenes.measure)
    monkeypatch.setattr(scenes, "measure", spy)
    again = scenes.run(asked)
    assert [call.args[2] for call in spy.call_args_list] == ["cfcam-sharp"]
    for part, of in again["models"]["efficientnet-lite0"].items():
        for label, figures in of["methods"].items():
            was = parts[part]["methods"][label]
            assert all(figures[column] == was[column] for column in scenes.COLUMNS[part])


def test_a_value_does_not_depend_on_the_photos_beside_it(lite0, classes):
    """Noise and ROAD draw random numbers: those of a photo are its own."""
    metrics = list(dict.fromkeys(scenes.COLUMNS["photos"].values()))
    asked = scene_questions.photo_questions(lite0, classes, "all", 0)
    cam = CFCAM(lite0.model, method="cfcam-sharp", on_invalid="flag")
    together, _ = scene_rows.measure(lite0, cam, "cfcam-sharp", asked, metrics, 2)
    for question, values in zip(asked, together, strict=True):
        (alone,), _ = scene_rows.measure(lite0, cam, "cfcam-sharp", [question], metrics, 2)
        assert alone == pytest.approx(values, abs=1e-4, nan_ok=True)


def test_after_its_minutes_a_run_begins_no_photo_and_the_next_goes_on(coco, tmp_path, capsys):
    none = scenes.run(options(tmp_path, coco=str(coco), minutes=0.0))
    part = none["models"]["efficientnet-lite0"]["scenes"]
    assert (part["questions"], part["asked"], part["methods"]) == (0, 1, {})
    assert "the same command goes on" in capsys.readouterr().out
    scenes.show(none)
    done = scenes.run(options(tmp_path, coco=str(coco)))
    assert done["models"]["efficientnet-lite0"]["scenes"]["questions"] == 1


def test_rows_of_other_settings_are_not_taken(tmp_path):
    rows = Rows(tmp_path / "rows.jsonl")
    row = Row(Key("before", "m", "scenes", "p", "1", "gradcam"), 1.0, 1.0, {"pointing": float("nan")})
    rows.add([row])
    again = Rows(tmp_path / "rows.jsonl")
    assert again.get(row.key) is not None
    assert again.get(row.key._replace(settings="after")) is None


def test_each_of_our_methods_has_rivals_of_as_many_sizes():
    assert "gradcam, three sizes" not in scenes._rivals("cfcam-sharp")
    assert {"gradcam", "gradcam, three sizes", "layercam"} <= {*scenes._rivals("cfcam-sharp, three sizes")}
    assert not any("cfcam" in rival for rival in scenes._rivals("cfcam"))


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_changes_the_map_and_is_taken_back(lite0: LoadedModel, photo_batch, name):
    cam, images = CFCAM(lite0.model, method="cfcam-sharp"), photo_batch[:2]
    before = cam(images, 1).grid
    with CONTROLS[name]():
        assert not torch.equal(cam(images, 1).grid, before)
    assert torch.equal(cam(images, 1).grid, before)
