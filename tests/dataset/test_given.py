"""Runs over data sets and modules that are in memory: the same rows as of the same images in files, and resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from cfcam_gpu.dataset.run import explain_dataset
from cfcam_gpu.dataset.sources.object_kinds import object_samples
from cfcam_gpu.errors import ConfigError, StoreError
from cfcam_gpu.evaluation import evaluate
from cfcam_gpu.report import write_report
from tests.helpers.smallnet import PLAIN, Net, Recorder, make_loaded, photo, rows, run, save

PHOTOS = [photo(seed) for seed in range(4)]
PIXELS = torch.stack([v2.functional.pil_to_tensor(image) for image in PHOTOS])


def explained(inputs: Any, out: Path, model: Any = None, **settings: Any) -> list[dict[str, Any]]:
    settings = {"device": "cpu", "layer": "conv:relu", **settings}
    explain_dataset(inputs, out, model or make_loaded(), **settings)
    return rows(out)


def test_a_loader_gives_the_rows_and_overlays_of_the_same_images_in_files(tmp_path):
    files = run(
        save(tmp_path / "in", **{f"{i}": image for i, image in enumerate(PHOTOS)}), tmp_path / "files"
    )
    assert files.tally.ok == 4
    loader = DataLoader(TensorDataset(PIXELS, torch.tensor([0, 1, 2, 0])), batch_size=2)
    from_loader = explained(loader, tmp_path / "loader")
    for one, other in zip(from_loader, rows(tmp_path / "files"), strict=True):
        np.testing.assert_array_equal(one["grid"], other["grid"])
        assert (one["pred"], one["width"], one["height"]) == (other["pred"], 60, 45)
        pictures = (tmp_path / "loader" / one["overlay"], tmp_path / "files" / other["overlay"])
        assert pictures[0].read_bytes() == pictures[1].read_bytes()
    assert [row["sample_id"] for row in from_loader] == ["0", "1", "2", "3"]
    assert [row["label"] for row in from_loader] == ["0", "1", "2", "0"]
    assert from_loader[3]["overlay"] == "000003_cfcam.png"


def test_the_files_of_a_torchvision_folder_are_held_no_longer_than_the_plan_needs_them(tmp_path):
    for name in ("ant", "bee"):
        save(tmp_path / "train" / name, a=PHOTOS[0])
    samples = object_samples(ImageFolder(tmp_path / "train")).samples
    assert [row["label"] for row in explained(samples, tmp_path / "out")] == ["ant", "bee"]
    assert len(samples) == 0


def test_a_single_path(tmp_path):
    folder = save(tmp_path / "in", a=PHOTOS[0])
    for number, path in enumerate((folder, str(folder), folder / "a.png", folder.glob("*.png"))):
        assert [row["status"] for row in explained(path, tmp_path / f"{number}")] == ["ok"]


def test_a_module_with_the_transform_of_its_training(tmp_path):
    class Named(TensorDataset):
        classes = ("ant", "bee", "cat")

    steps = [v2.Resize((32, 32)), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
    transform = v2.Compose([*steps, v2.Normalize((0.0,) * 3, (1.0,) * 3)])
    module = Net().train()
    dataset = Named(PIXELS, torch.tensor([0, 1, 2, 0]))
    by_module = explained(dataset, tmp_path / "module", module, preprocess=transform)
    by_loaded = explained(dataset, tmp_path / "loaded")
    assert module.training
    for one, other in zip(by_module, by_loaded, strict=True):
        np.testing.assert_array_equal(one["grid"], other["grid"])
        assert one["pred_name"] == other["pred_name"] in Named.classes
        assert one["label"] == other["label"]


def test_names_of_the_data_set_are_not_given_to_other_outputs(tmp_path):
    class Two(TensorDataset):
        classes = ("cat", "dog")

    dataset = Two(PIXELS[:1], torch.tensor([1]))
    (row,) = explained(dataset, tmp_path / "out", Net(), preprocess=PLAIN)
    assert row["label"] == "dog"
    assert row["pred_name"] == f"class {row['pred']}"
    with pytest.raises(ConfigError, match="class_names must name each of the model's 3 outputs, got 2"):
        explained(dataset, tmp_path / "more", Net(), preprocess=PLAIN, class_names=["cat", "dog"])


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        (
            Net(),
            {},
            "a module needs the preprocessing of its training, got nothing; pass preprocess=Preprocess",
        ),
        (Net(), {"preprocess": 224}, "got a int"),
        (
            Net(),
            {"preprocess": v2.PILToTensor()},
            "resize, crop the centre and normalise; PILToTensor makes inputs",
        ),
        (make_loaded(), {"preprocess": PLAIN}, "preprocess and class_names are for a module"),
        (make_loaded(), {"class_names": ["a"]}, "preprocess and class_names are for a module"),
        (make_loaded(), {"methd": "gradcam"}, r"unknown setting 'methd' \(did you mean method\?\)"),
        (make_loaded(), {"num_classes": 2}, "load_model takes it, whose result is a model here"),
        (make_loaded(), {"report": True}, r"call cfcam_gpu\.report\.write_report\(out\) after it"),
        (make_loaded(), {"workers": 2}, "workers is for image files.*leave workers out"),
        (make_loaded(), {"distributed": "ray"}, "distributed is for image files"),
    ],
)
def test_what_does_not_fit(tmp_path, model, settings, message):
    with pytest.raises(ConfigError, match=message):
        explained(PHOTOS, tmp_path / "out", model, **settings)
    assert not (tmp_path / "out").exists()


def test_a_run_is_resumed_with_the_same_data_set_only(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        explained(PHOTOS, out, part_size=1, batch_size=1, observer=Recorder(after=2))
    recorder = Recorder()
    explained(list(PIXELS), out, part_size=1, batch_size=1, observer=recorder)
    assert 1 <= len(recorder.ids) <= 3
    assert [row["status"] for row in rows(out)] == ["ok"] * 4
    with pytest.raises(StoreError, match="holds a run in which sample '0' is object:"):
        explained(PHOTOS[::-1], out)


def test_an_item_that_cannot_be_read_is_one_error_row(tmp_path):
    class Broken(TensorDataset):
        def __getitem__(self, index: int) -> Any:
            if index == 20:  # not among those that are read first
                raise OSError("the disk is gone")
            return super().__getitem__(index)

    dataset = Broken(torch.cat([PIXELS] * 10), torch.zeros(40, dtype=torch.int64))
    stored = explained(dataset, tmp_path / "out", overlays="none", engine="torch")
    failed = [row for row in stored if row["status"] == "error"]
    assert [(row["sample_id"], row["stage"]) for row in failed] == [("20", "decode")]
    assert failed[0]["message"] == "reading it raised OSError: the disk is gone"


def test_the_report_and_an_evaluation_show_the_images(tmp_path):
    explained(PHOTOS, tmp_path / "out")
    write_report(tmp_path / "out")
    pages = [path.read_text() for path in (tmp_path / "out").rglob("*") if path.suffix in (".html", ".js")]
    assert any("data:image/jpeg" in page or "/9j/" in page for page in pages)
    assert not any("this process does not have it" in page for page in pages)
    result = evaluate(
        PHOTOS, tmp_path / "evaluation", Net(), preprocess=PLAIN, methods=["gradcam"], metrics=["drop"],
        device="cpu", layer="conv:relu", plots=False,
    )  # fmt: skip
    assert result.summary is not None
    assert result.summary["images"] == 4
