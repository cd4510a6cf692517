"""Correlation between the maps of different classes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cfcam_gpu.errors import ConfigError
from cfcam_gpu.metrics.class_sensitivity import class_sensitivity
from cfcam_gpu.metrics.options import MetricOptions
from tests.helpers.fixed_maps import Fixed, Recorder, case_without_blanks, correlation_or_nan, tiny_maps
from tests.helpers.tolerances import SIMILARITY

OPTIONS = MetricOptions()


def test_class_sensitivity_compares_the_models_own_ranking():
    case = case_without_blanks()
    recorder = Recorder(tiny_maps(case))
    values = class_sensitivity(replace(case, targets=torch.zeros_like(case.targets), maps=recorder), OPTIONS)
    ranking = case.model(case.images).argsort(1, descending=True)
    ((_, targets),) = recorder.calls
    assert torch.equal(targets, torch.stack([ranking[:, 0], ranking[:, 1], ranking[:, 3]], 1))
    maps = recorder.of_images(case.images, targets)
    expected = [correlation_or_nan(top, least) for top, _, least in maps]
    torch.testing.assert_close(
        values["similarity_least"].double(),
        torch.tensor(expected).double(),
        atol=SIMILARITY,
        rtol=0,
        equal_nan=True,
    )


def test_class_sensitivity_needs_two_classes_and_two_maps_that_are_not_blank():
    case = case_without_blanks()
    single = replace(case, model=lambda images: images.mean((1, 2, 3))[:, None])
    with pytest.raises(ConfigError, match="metric 'class_sensitivity' compares the maps of two classes"):
        class_sensitivity(single, OPTIONS)
    two = class_sensitivity(replace(case, model=lambda images: case.model(images)[:, :2]), OPTIONS)
    torch.testing.assert_close(two["similarity_second"], two["similarity_least"], equal_nan=True)
    blank = replace(case, maps=Fixed(torch.zeros_like(case.heatmaps), None))
    assert all(value.isnan().all() for value in class_sensitivity(blank, OPTIONS).values())
