"""Evaluations of models with one output, and of models whose classes do not exclude each other."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cfcam_gpu.errors import ConfigError
from cfcam_gpu.evaluation import EvaluationOptions
from cfcam_gpu.metrics.options import MetricOptions
from tests.helpers.small_evaluation import evaluate_small, stored_rows, stored_table
from tests.helpers.smallnet import make_loaded

METRICS = ("drop", "deletion", "insertion", "road", "class_sensitivity")
COLUMNS = (
    "average_drop", "increase", "deletion_black_auc", "insertion_blur_auc", "road_combined", "similarity_least",
)  # fmt: skip
SETTINGS: dict[str, Any] = {
    "metrics": METRICS, "methods": ["gradcam"], "layer": "net.conv:relu",
    "measuring": MetricOptions(steps=5, road_percentiles=(40.0,)),
}  # fmt: skip


class Heads(nn.Module):
    """The small network, of which a function of the logits is put out; the logits are large enough to matter."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.net, self.make = make_loaded().model, make

    def forward(self, images: Tensor) -> Tensor:
        made: Tensor = self.make(20 * self.net(images))
        return made


def measured(pictures: Path, out: Path, make: Any, **settings: Any) -> list[dict[str, Any]]:
    loaded = dataclasses.replace(make_loaded(), model=Heads(make).eval(), class_names=None)
    evaluate_small(pictures, out, model=loaded, **SETTINGS, **settings)
    return stored_rows(out, "target", "target_prob", *COLUMNS)


def test_one_output_is_measured_as_two_classes(pictures, tmp_path):
    """Against a model with two outputs whose softmax is the sigmoid of the one output."""
    one = measured(pictures, tmp_path / "one", lambda z: z[:, 1:2] - z[:, :1])
    two = measured(
        pictures, tmp_path / "two", lambda z: torch.stack([z[:, 0] - z[:, 1], z[:, 1] - z[:, 0]], 1) / 2
    )
    for found, expected in zip(one, two, strict=True):
        assert found["target"] == expected["target"]
        assert 0.5 <= found["target_prob"] < 1
        for column in ("target_prob", *COLUMNS):
            assert found[column] == pytest.approx(expected[column], abs=1e-4), column
    assert len({row["average_drop"] for row in one}) > 1


def test_a_multi_label_model_is_measured_by_its_sigmoids(pictures, tmp_path):
    """The class explained alone, as a model with one output, has the same figures."""
    every = measured(pictures, tmp_path / "every", lambda z: z, target=1, activation="sigmoid")
    alone = measured(pictures, tmp_path / "alone", lambda z: z[:, 1:2], target=1)
    softmax = measured(pictures, tmp_path / "softmax", lambda z: z, target=1)
    of_class = [column for column in COLUMNS if column != "similarity_least"]
    for found, expected in zip(every, alone, strict=True):
        for column in ("target_prob", *of_class):
            assert found[column] == pytest.approx(expected[column], abs=1e-4), column
    assert [row["target_prob"] for row in every] != [row["target_prob"] for row in softmax]
    assert len(stored_table(tmp_path / "every")) == 5


@pytest.mark.parametrize("settings", [{"top_k": 2}, {"multi_label": 0.5}])
def test_an_evaluation_measures_one_class_an_image(settings):
    with pytest.raises(ConfigError, match=r"it measures one class an image; give target"):
        EvaluationOptions(**settings)


def test_an_evaluation_of_several_named_classes_is_refused(pictures, tmp_path):
    with pytest.raises(ConfigError, match=r"measures one class an image, got several; give one as target"):
        evaluate_small(pictures, tmp_path / "out", target=[0, 1])
