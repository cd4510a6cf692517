"""Metrics of models with one output, and of models whose classes do not exclude each other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cfcam_gpu.errors import CaptureError
from cfcam_gpu.metrics import METRICS, Case, MetricOptions
from tests.helpers.metric_cases import SENSITIVE, pictures, random_map
from tests.helpers.tolerances import PROBABILITY

OPTIONS = MetricOptions(steps=9, road_percentiles=(20.0, 60.0))
OF_PROBABILITIES = ("drop", "drop_published", "deletion", "insertion", "road")


def one_output(images: Tensor) -> Tensor:
    with torch.no_grad():
        return (SENSITIVE(images)[:, 0] - SENSITIVE(images)[:, 1])[:, None]


def two_outputs(images: Tensor) -> Tensor:
    """Two classes whose softmax is the sigmoid of the one output."""
    z = one_output(images)
    return torch.cat([-z / 2, z / 2], 1)


@pytest.mark.parametrize("name", OF_PROBABILITIES)
def test_one_output_is_measured_as_two_classes(name):
    images, targets = pictures(4), torch.tensor([0, 1, 1, 0])
    heatmaps = random_map(torch.zeros(4, 16, 16))
    one, two = (Case.of_heatmaps(model, images, targets, heatmaps) for model in (one_output, two_outputs))
    found, expected = METRICS[name](one, OPTIONS), METRICS[name](two, OPTIONS)
    for column, values in found.items():
        torch.testing.assert_close(values, expected[column], rtol=0, atol=PROBABILITY)
        assert len(values.unique()) > 1 or column == "increase", column


@pytest.mark.parametrize("name", OF_PROBABILITIES)
def test_classes_that_do_not_exclude_each_other_have_a_sigmoid_each(name):
    """As for the model with only the explained class, and not as with a softmax."""
    images, targets = pictures(3), torch.tensor([1, 1, 1])
    heatmaps = random_map(torch.zeros(3, 16, 16))

    def every_class(images: Tensor) -> Tensor:
        with torch.no_grad():
            return SENSITIVE(images)

    every = Case.of_heatmaps(every_class, images, targets, heatmaps, activation="sigmoid")
    alone = Case.of_heatmaps(lambda x: every_class(x)[:, 1], images, torch.ones_like(targets), heatmaps)
    softmax = Case.of_heatmaps(every_class, images, targets, heatmaps)
    found, expected, other = (METRICS[name](case, OPTIONS) for case in (every, alone, softmax))
    for column, values in found.items():
        torch.testing.assert_close(values, expected[column], rtol=0, atol=PROBABILITY)
    assert any(not torch.allclose(values, other[column]) for column, values in found.items())


def test_both_maps_of_one_output_are_compared():
    images, asked = pictures(3), []

    class Maps:
        def of_images(self, images: Tensor, targets: Tensor) -> Tensor:
            asked.append(targets)
            return torch.stack([images.mean(1), 1 - images.mean(1), 1 - images.mean(1)], 1)

    case = Case.of_heatmaps(one_output, images, torch.tensor([1, 1, 1]), images.mean(1))
    values = METRICS["class_sensitivity"](replace(case, maps=Maps()), OPTIONS)  # type: ignore[arg-type]
    predicted = (one_output(images)[:, 0] > 0).long()
    assert torch.equal(asked[0], torch.stack([predicted, 1 - predicted, 1 - predicted], 1))
    torch.testing.assert_close(values["similarity_least"], -torch.ones(3))


def test_the_constant_softmax_of_one_output_is_refused():
    with pytest.raises(CaptureError, match="softmax of a model with one output is 1 for every image"):
        Case.of_heatmaps(
            one_output, pictures(1), torch.tensor([0]), torch.ones(1, 16, 16), activation="softmax"
        )
