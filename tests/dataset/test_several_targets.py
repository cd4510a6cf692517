"""Runs that explain several classes of an image, of models with one output, and of multi-label models."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cfcam_gpu.dataset import open_results
from cfcam_gpu.dataset.execution.observer import Tally
from cfcam_gpu.dataset.store.export import export
from cfcam_gpu.errors import ConfigError, InputError, StoreError, TargetError
from cfcam_gpu.explainer import CFCAM
from cfcam_gpu.models import LoadedModel
from tests.helpers.smallnet import PLAIN, Recorder, make_loaded, photo, rows, run, save


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(tmp_path / "in", a=photo(1), b=photo(2), c=photo(3), broken=b"", d=photo(4))


def batch() -> Tensor:
    """The images of the folder that can be decoded, as the model sees them."""
    return torch.stack([PLAIN(photo(i)) for i in (1, 2, 3, 4)])


def by_image(out: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows with a map by the name of the image."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows(out):
        if row["status"] == "ok":
            found.setdefault(row["sample_id"].removesuffix(".png"), []).append(row)
    return found


WAYS: dict[str, tuple[dict[str, Any], Any]] = {
    "top k": ({"top_k": 2}, lambda p: [q.argsort(descending=True)[:2].tolist() for q in p.softmax(1)]),
    "names": ({"target": "cat,ant"}, lambda p: [[2, 0]] * len(p)),
    "list": ({"target": [2, "ant"]}, lambda p: [[2, 0]] * len(p)),
    "multi-label": (
        {"multi_label": 0.45},
        lambda p: [
            [k for k in q.argsort(descending=True).tolist() if q[k] > 0.45] or [int(q.argmax())]
            for q in p.sigmoid()
        ],
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("workers", [0, 2])
def test_each_explained_class_has_a_row_and_a_picture(folder, tmp_path, way, workers):
    settings, expected = WAYS[way]
    loaded = make_loaded()
    summary = run(folder, tmp_path / "out", model=loaded, workers=workers, batch_size=3, **settings)
    logits = loaded.model(batch()).detach()
    found = by_image(tmp_path / "out")
    assert summary.tally == Tally(4, 1, sum(any(row["blank"] for row in group) for group in found.values()))
    activation = "sigmoid" if way == "multi-label" else "softmax"
    probabilities = logits.sigmoid() if way == "multi-label" else logits.softmax(1)
    for i, (name, classes) in enumerate(zip("abcd", expected(logits), strict=True)):
        group = found[name]
        assert [row["target"] for row in group] == classes
        assert [row["target_name"] for row in group] == [("ant", "bee", "cat")[k] for k in classes]
        with CFCAM(loaded.model, "conv:relu", activation=activation) as cam:
            alone = cam(batch()[i, None], [classes])
        for k, row in enumerate(group):
            np.testing.assert_allclose(row["grid"], alone.grid[0, k].numpy(), atol=1e-6)
            assert row["heatmap_max"] == pytest.approx(float(alone.peak[0, k]), rel=1e-5)
            assert row["target_prob"] == pytest.approx(float(probabilities[i, classes[k]]), abs=1e-6)
            assert row["pred"] == int(logits[i].argmax())
            assert row["prob"] == pytest.approx(float(probabilities[i].max()), abs=1e-6)
            assert row["overlay"] == f"{name}_class{classes[k]}_cfcam.png"
            assert row["n_clusters"] == group[0]["n_clusters"]
    pictures = sorted(path.name for path in (tmp_path / "out").glob("*.png"))
    assert pictures == sorted(row["overlay"] for group in found.values() for row in group)


def test_the_model_runs_once_for_all_classes(folder, tmp_path):
    loaded, passes = make_loaded(), []
    loaded.model.get_submodule("conv").register_forward_hook(lambda *_: passes.append(1))
    run(folder, tmp_path / "one", model=loaded, batch_size=5)
    once = len(passes)
    run(folder, tmp_path / "out", model=loaded, batch_size=5, top_k=3)
    assert len(passes) == 2 * once


def test_an_interrupted_run_goes_on_and_failed_samples_are_redone(folder, tmp_path):
    out, whole = tmp_path / "out", tmp_path / "whole"
    run(folder, whole, part_size=2, batch_size=1, top_k=2)
    with pytest.raises(KeyboardInterrupt):
        run(folder, out, part_size=2, batch_size=1, top_k=2, observer=Recorder(after=3))
    recorder = Recorder()
    summary = run(folder, out, part_size=2, batch_size=1, top_k=2, observer=recorder)
    assert (summary.before, summary.now, summary.total) == (3, 2, 5)
    assert summary.tally == Tally(4, 1, summary.tally.blank)
    photo(5).save(folder / "broken.png")
    photo(5).save(folder / "c.png")
    again = run(folder, out, part_size=2, batch_size=1, top_k=2, retry_failed=True)
    assert again.tally.skipped == 0
    before, after = by_image(whole), by_image(out)
    assert set(after) == {"a", "b", "broken", "c", "d"}
    for name in "abcd":  # those that had not failed stay as they were
        for one, other in zip(before[name], after[name], strict=True):
            np.testing.assert_array_equal(one.pop("grid"), other.pop("grid"))
            assert one == other


def test_a_run_with_other_targets_is_another_run(folder, tmp_path):
    run(folder, tmp_path / "out", top_k=2)
    for settings in ({}, {"top_k": 3}, {"multi_label": 0.5}, {"target": [0, 1]}):
        with pytest.raises(StoreError, match=r"top_k was 2, now (none|None|3)|target was None"):
            run(folder, tmp_path / "out", **settings)
    (tmp_path / "out" / "mine_class1_cfcam.png").write_bytes(b"not of the run")
    run(folder, tmp_path / "out", overwrite=True)
    assert sorted(path.name for path in (tmp_path / "out").glob("*class*.png")) == ["mine_class1_cfcam.png"]


def test_results_count_samples_and_find_each_class(folder, tmp_path):
    run(folder, tmp_path / "out", part_size=2, top_k=2)
    results = open_results(tmp_path / "out")
    counts = results.counts()
    assert (counts["total"], counts["ok"], counts["error"], counts["missing"]) == (5, 4, 1, 0)
    assert len(results) == 9
    first, second = by_image(tmp_path / "out")["b"]
    assert results.row("b.png")["target"] == first["target"]
    found = results.heatmap("b.png", target=second["target"])
    np.testing.assert_array_equal(found, results.heatmap(second))
    other = ({0, 1, 2} - {first["target"], second["target"]}).pop()
    with pytest.raises(InputError, match=rf"class {other} of sample 'b.png' was not explained, but"):
        results.heatmap("b.png", target=other)


def test_exports_hold_each_class(folder, tmp_path):
    run(folder, tmp_path / "out", top_k=2)
    results = open_results(tmp_path / "out")
    assert export(results, "npz", tmp_path / "maps.npz") == 9
    arrays = np.load(tmp_path / "maps.npz")
    assert len(arrays["heatmap"]) == len(arrays["target"]) == 9
    assert export(results, "png", tmp_path / "png") == 8
    names = {
        f"{name}_class{row['target']}_heatmap.png"
        for name, g in by_image(tmp_path / "out").items()
        for row in g
    }
    assert {path.name for path in (tmp_path / "png").iterdir()} == names
    assert export(results, "fiftyone", tmp_path / "fiftyone") == 8
    entries = json.loads((tmp_path / "fiftyone" / "samples.json").read_text())["samples"]
    assert len({entry["heatmap"]["map_path"] for entry in entries}) == 8


class OneOutput(nn.Module):
    """The small network with one output, which is positive for about half of the images."""

    def __init__(self) -> None:
        super().__init__()
        self.net: Any = make_loaded().model
        with torch.no_grad():
            z = self.two(batch())
            self.offset = (z.sort().values[1] + z.sort().values[2]) / 2

    def two(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images)
        return logits[:, 1] - logits[:, 0]

    def forward(self, images: Tensor) -> Tensor:
        return (self.two(images) - self.offset)[:, None]


@pytest.mark.parametrize("names", [("pneumonia",), ("not pneumonia", "pneumonia"), None])
def test_one_output_decides_between_two_classes(folder, tmp_path, names):
    loaded = LoadedModel(OneOutput().eval(), PLAIN, names, "one output", "random")
    run(folder, tmp_path / "out", model=loaded, layer="net.conv:relu")
    z = loaded.model(batch())[:, 0].detach()
    assert {bool(value) for value in z > 0} == {True, False}
    for value, (row,) in zip(z, by_image(tmp_path / "out").values(), strict=True):
        yes = bool(value > 0)
        assert row["pred"] == row["target"] == int(yes)
        expected = ("class 0", "class 1") if names is None else ("not pneumonia", "pneumonia")
        assert row["pred_name"] == expected[yes]
        assert row["prob"] == pytest.approx(float((value if yes else -value).sigmoid()), abs=1e-6)
    assert open_results(tmp_path / "out").run["fingerprint"]["activation"] == "sigmoid"
    run(folder, tmp_path / "yes", model=loaded, layer="net.conv:relu", target="1")
    for value, (row,) in zip(z, by_image(tmp_path / "yes").values(), strict=True):
        assert row["target_prob"] == pytest.approx(float(value.sigmoid()), abs=1e-6)


class AsTuple(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = make_loaded().model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.net(images)
        return 0 * logits, logits


def test_a_run_of_a_named_output(folder, tmp_path):
    loaded = dataclasses.replace(make_loaded(), model=AsTuple().eval())
    run(folder, tmp_path / "out", model=loaded, output="1", layer="net.conv:relu")
    run(folder, tmp_path / "plain")
    for one, other in zip(rows(tmp_path / "out"), rows(tmp_path / "plain"), strict=True):
        assert one["prob"] == other["prob"]


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "two ways": ({"target": 1, "top_k": 2}, ConfigError, "target and top k both say what to explain"),
    "no class": ({"top_k": 0}, ConfigError, "top k must be at least 1, got 0"),
    "too many": ({"top_k": 4}, TargetError, "the 4 likeliest classes are asked for, but the model has 3"),
    "threshold": ({"multi_label": 1.0}, ConfigError, "must be a probability from 0 to below 1, got 1.0"),
    "softmax": ({"multi_label": 0.5, "activation": "softmax"}, ConfigError, "have a sigmoid each"),
    "twice": ({"target": "ant,0"}, ConfigError, "target must name different classes"),
    "unknown": ({"target": "ant,wolf"}, TargetError, "no class is called 'wolf'"),
    "out of range": ({"target": [0, 3]}, TargetError, "must be from 0 to 2, got 3"),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_targets_are_errors(folder, tmp_path, name):
    settings, error, message = BAD[name]
    with pytest.raises(error, match=message):
        run(folder, tmp_path / "out", **settings)
