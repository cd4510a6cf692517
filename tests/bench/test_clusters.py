"""Variants of CF-CAM's clustering against scikit-learn, labels that are drawn anew, and a run on two photos."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.cluster import DBSCAN

from bench import clusters
from bench.clusters import Variant
from bench.scene_questions import Question
from cfcam_gpu import CFCAMConfig
from cfcam_gpu.config import DOMINANT, NOISE
from cfcam_gpu.methods import Features


def activations(dead: int = 6, alive: int = 24) -> torch.Tensor:
    """Channels (1,C,4,4) in three groups; the last ones are zero everywhere."""
    generator = torch.Generator().manual_seed(0)
    groups = torch.rand(3, 4, 4, generator=generator)
    noise = 0.05 * torch.rand(alive, 4, 4, generator=generator)
    scale = 1 + torch.rand(alive, 1, 1, generator=generator)
    channels = scale * groups[torch.arange(alive) % 3] + noise
    return torch.cat([channels, torch.zeros(dead, 4, 4)])[None]


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("live", [False, True])
def test_a_variant_clusters_as_scikit_learn_does(live, unit):
    maps = activations(alive=25)  # of 25 and of 31 channels, no distance is the percentile itself
    config = CFCAMConfig(dominant_percentile=None, eps_percentile=20, min_samples_fraction=0.0)
    found = Variant("last", "workflow", config, live=live, unit=unit).clusters(maps).labels[0]
    rows = maps[0].flatten(1).double().numpy()[: 25 if live else 31]
    if unit:
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    distances = np.linalg.norm(rows[:, None] - rows[None], axis=2)
    eps = np.percentile(distances[~np.eye(len(rows), dtype=bool)], 20)
    expected = DBSCAN(eps=eps * (1 + 1e-6), min_samples=2, metric="precomputed").fit(distances).labels_
    assert found[: len(rows)].tolist() == expected.tolist()
    assert found[len(rows) :].eq(NOISE).all()
    assert expected.max() >= 1


def test_the_elbow_separates_three_groups():
    config = CFCAMConfig(dominant_percentile=None, min_samples_fraction=0.0)
    found = Variant("last", "workflow", config, live=True, unit=True, elbow=True).clusters(activations())
    labels = found.labels[0, :24]
    for number in range(3):
        inside = labels[number::3]
        assert len(inside[inside >= 0].unique()) == 1
    assert int(found.n_clusters) == 3


def test_an_image_without_a_live_channel_is_noise():
    found = Variant("last", "default", CFCAMConfig(), live=True).clusters(torch.zeros(1, 5, 4, 4))
    assert found.labels.eq(NOISE).all()
    assert int(found.n_clusters) == 0


def test_shuffling_moves_labels_among_clustered_channels_only():
    labels = torch.tensor([[DOMINANT, *[0] * 20, *[1] * 20, NOISE, NOISE]])
    live = torch.ones(43, dtype=torch.bool)
    live[-1] = False
    found = clusters.shuffled(labels, live, torch.Generator().manual_seed(3))
    assert found[0, 0] == DOMINANT
    assert found[0, -1] == NOISE
    assert not found.equal(labels)
    assert found.sort().values.equal(labels.sort().values)


def test_information_that_is_in_the_labels_is_lost_when_they_are_shuffled():
    """Two groups of channels on two halves of the picture; the class's gradients are those of one, with much noise."""
    generator = torch.Generator().manual_seed(1)
    maps = torch.zeros(1, 40, 4, 4)
    maps[:, :20, :, :2], maps[:, 20:, :, 2:] = 1, 1
    maps += 0.01 * torch.rand(maps.shape, generator=generator)
    gradients = 3 * torch.randn(1, 1, 40, 1, 1, generator=generator).expand(1, 1, 40, 4, 4).clone()
    gradients[:, :, :20] += 1
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:, :4] = True
    question = Question("photo", "1", torch.zeros(3, 8, 8), 0, mask)
    config = CFCAMConfig(dominant_percentile=None, min_samples_fraction=0.0, filter="none")
    features = Features(activations=maps, gradients=gradients, size=(8, 8), engine="torch")
    found = clusters.measured(
        Variant("last", "workflow", config), features, clusters.Scorer(question), question, shuffles=20
    )
    assert (found["clusters"], found["noise"], found["dead"]) == (2, 0, 0)
    assert found["as_is average_precision"] == pytest.approx(1)
    assert found["shuffled average_precision"] < 0.95


def test_names_are_different_and_hold_the_presets():
    names = [variant.name for variant in (*clusters.presets(), *clusters.variants())]
    assert len({*names}) == len(names)
    assert {"last: default", "last: workflow", "earlier: spatial"} <= {*names}


def test_a_variant_is_chosen_if_its_labels_matter_and_its_map_is_better():
    def figure(shuffled: float, without: float) -> dict[str, object]:
        return {"average_precision": {"shuffled": {"low": shuffled}, "without": {"low": without}}}

    searched = {
        "last: a": figure(0.1, 0.1), "last: b": figure(0.1, 0.3), "last: c": figure(0.1, 0.2),
        "last: d": figure(-0.1, 0.9), "earlier: e": figure(0.9, -0.1), "earlier: f": figure(0.1, 0.1),
    }  # fmt: skip
    assert clusters.chosen(searched) == ["last: b", "last: c", "earlier: f"]


def test_a_variant_must_beat_its_shuffled_labels_on_every_model():
    def model(low: float) -> dict[str, object]:
        return {"variants": {"x": {"average_precision": {"shuffled": {"low": low}}}}}

    assert clusters.beats({"a": model(0.1), "b": model(0.2)}, "x", "shuffled")
    assert not clusters.beats({"a": model(0.1), "b": model(-0.2)}, "x", "shuffled")


@pytest.fixture
def coco(tmp_path: Path, photos: list[Image.Image]) -> Path:
    """Espresso in a cup (COCO's 47), twice: a photo of each half."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for name in ("a", "b"):
        photos[1].save(tmp_path / "images" / f"{name}.jpg")
        mask = np.zeros((photos[1].height, photos[1].width), np.uint8)
        mask[: photos[1].height // 2] = 47
        Image.fromarray(mask).save(tmp_path / "masks" / f"{name}.png")
    return tmp_path


def test_a_run_searches_one_half_and_measures_the_other(coco, monkeypatch):
    few = [one for one in clusters.variants() if one.live and one.unit and not one.elbow][:2]
    few.append(replace(few[0], layer="earlier"))
    monkeypatch.setattr(clusters, "variants", lambda: few)
    result = clusters.run(clusters.Options(coco=str(coco), models=("efficientnet-lite0",)))
    assert {*result["search"]["variants"]} == {one.name for one in few}
    assert result["search"]["questions"] == 1
    (model,) = result["models"].values()
    assert model["questions"] == 1
    assert {*result["chosen"]} <= {*result["search"]}
    assert (
        {*model["variants"]}
        == {*result["verdicts"]}
        == {*result["chosen"]} | {one.name for one in clusters.presets()}
    )
    default = model["variants"]["last: default"]
    assert 0 < default["average_precision"]["mean"] < 1
    assert default["average_precision"]["shuffled"]["low"] is None  # a single photo
    clusters.show(result)
