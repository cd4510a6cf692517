"""Runs that explain the class of the label, or the predicted class with that of the label beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cfcam_gpu.capture.selectors import LikeliestAnd
from cfcam_gpu.dataset import Sample, open_results
from cfcam_gpu.errors import ConfigError, StoreError, TargetError
from cfcam_gpu.explainer import CFCAM
from tests.helpers.smallnet import PLAIN, make_loaded, photo, rows, run, save

NAMES = ("ant", "bee", "cat")


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """Photos with the right label, wrong ones, several, none and one that is no class."""
    loaded = make_loaded()
    made = []
    for i in range(1, 7):
        picture = photo(i)
        pred = int(loaded.model(PLAIN(picture)[None]).argmax())
        wrong = (pred + 1) % 3, (pred + 2) % 3
        label = {
            1: NAMES[pred], 2: NAMES[wrong[0]], 3: str(wrong[1]), 4: f"{NAMES[wrong[0]]}|{NAMES[pred]}",
            5: None, 6: "wolf",
        }[i]  # fmt: skip
        save(tmp_path / "in", **{f"p{i}": picture})
        made.append(Sample(f"p{i}", str(tmp_path / f"in/p{i}.png"), label, name=f"p{i}"))
    return made


def classes(out: Path) -> list[list[int]]:
    found: dict[str, list[int]] = {}
    for row in rows(out):
        found.setdefault(row["sample_id"], []).append(-1 if row["target"] is None else row["target"])
    return list(found.values())


@pytest.mark.parametrize("target", ["predicted,expected", ["expected", "predicted"]])
@pytest.mark.parametrize("workers", [0, 2])
def test_wrong_predictions_have_the_expected_map_beside_them(samples, tmp_path, target, workers):
    out = tmp_path / "out"
    run(list(samples), out, target=target, workers=workers, batch_size=4)
    loaded = make_loaded()
    preds = loaded.model(torch.stack([PLAIN(photo(i)) for i in range(1, 7)])).argmax(1).tolist()
    wrong = [(pred + 1) % 3 for pred in preds]
    expected = [
        [preds[0]], [preds[1], wrong[1]], [preds[2], (preds[2] + 2) % 3], [preds[3], wrong[3]],
        [preds[4]], [preds[5]],
    ]  # fmt: skip
    assert classes(out) == expected
    stored = [row for row in rows(out) if row["sample_id"] == "p2"]
    with CFCAM(loaded.model, "conv:relu") as cam:
        alone = cam(PLAIN(photo(2))[None], [[preds[1], wrong[1]]])
    for k, row in enumerate(stored):
        np.testing.assert_allclose(row["grid"], alone.grid[0, k].numpy(), atol=1e-6)
        assert row["overlay"] == f"p2_class{row['target']}_cfcam.png"
        assert (out / row["overlay"]).is_file()


def test_both_maps_come_from_one_forward_pass(samples, tmp_path):
    loaded, passes = make_loaded(), []
    loaded.model.get_submodule("conv").register_forward_hook(lambda *_: passes.append(1))
    run(list(samples), tmp_path / "one", model=loaded, batch_size=6)
    once = len(passes)
    run(list(samples), tmp_path / "out", model=loaded, batch_size=6, target="predicted,expected")
    assert len(passes) == 2 * once


def test_the_expected_class_alone_needs_a_label(samples, tmp_path):
    summary = run(list(samples), tmp_path / "out", target="expected")
    assert (summary.tally.ok, summary.tally.skipped) == (4, 2)
    stored = rows(tmp_path / "out")
    assert [row["message"] for row in stored if row["status"] != "ok"] == [
        "the class of its label is to be explained, and it has none",
        "the class of its label is to be explained, and 'wolf' is no class of test",
    ]
    first, second = stored[:2]
    assert (first["target"], second["target"] == second["pred"]) == (first["pred"], False)
    assert len([row for row in stored if row["sample_id"] == "p4"]) == 2


def test_such_a_run_goes_on_and_is_no_other_run(samples, tmp_path):
    out = tmp_path / "out"
    run(list(samples[:3]), out, target="predicted,expected")
    again = run(list(samples), out, target="predicted,expected")
    assert (again.before, again.now) == (3, 3)
    assert open_results(out).has_several_targets
    with pytest.raises(StoreError, match="target was 'predicted,expected', now None"):
        run(list(samples), out)


@pytest.mark.parametrize("target", ["expected,ant", "predicted,expected,cat", ["predicted", "predicted"]])
def test_words_and_classes_do_not_mix(samples, tmp_path, target: Any):
    with pytest.raises(ConfigError, match="target may be predicted, expected, both, or classes, got"):
        run(list(samples), tmp_path / "out", target=target)


def test_the_selector_checks_what_it_is_given():
    logits = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    assert LikeliestAnd(((), ())).choose(logits, "softmax")[0].tolist() == [[1], [0]]
    with pytest.raises(TargetError, match="expected classes for 2 images, got 1"):
        LikeliestAnd(((0,),)).choose(logits, "softmax")
    with pytest.raises(TargetError, match="from 0 to 1 for this model, got 2"):
        LikeliestAnd(((0,), (2,))).choose(logits, "softmax")
