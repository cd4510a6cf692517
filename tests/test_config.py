"""Parameters are checked where they are given, and the messages say what to do."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from cfcam_gpu import PRESETS, BackendError, CFCAMConfig, ConfigError, explain_activations
from cfcam_gpu.cfcam import filtering, reference, weighting
from cfcam_gpu.config import FILTERS, WEIGHTINGS

#: Parameter -> a value that it must not have, and the message.
BAD: dict[str, tuple[Any, str]] = {
    "dominant_percentile": (101, r"dominant_percentile must be a number from 0 to 100 or None, got 101"),
    "eps_percentile": ("25", r"eps_percentile must be a number from 0 to 100, got '25'"),
    "min_samples_fraction": (-0.1, r"min_samples_fraction must be a number from 0 to 1, got -0.1"),
    "filter": ("median", r"unknown filter 'median'; choose one of: bilateral, bilateral_relative"),
    "weighting": ("max", r"unknown weighting 'max' \(did you mean softmax\?\); choose one of: mean, softmax"),
    "sigma_space": (0, r"sigma_space must be a positive number, got 0"),
    "sigma_range": (float("nan"), r"sigma_range must be a positive number, got nan"),
    "diameter": (4, r"diameter must be a positive odd number of cells or None, got 4"),
}


@pytest.mark.parametrize("name", BAD)
def test_each_parameter_is_checked(name):
    value, message = BAD[name]
    with pytest.raises(ConfigError, match=message):
        CFCAMConfig(**{name: value})


def test_presets_and_overrides():
    assert CFCAMConfig.preset("default") == CFCAMConfig()
    assert CFCAMConfig.preset("upstream", eps_percentile=10).eps_percentile == 10
    assert CFCAMConfig.preset("upstream").weighting == "softmax"
    assert CFCAMConfig.preset("workflow").dominant_percentile is None
    with pytest.raises(
        ConfigError, match=r"unknown preset 'best'; choose one of: default, upstream, workflow"
    ):
        CFCAMConfig.preset("best")
    with pytest.raises(
        ConfigError,
        match=r"unknown parameter 'sigma' \(did you mean sigma_space\?\); choose one of: diameter",
    ):
        CFCAMConfig.preset("default", sigma=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        CFCAMConfig().filter = "none"  # type: ignore[misc]


def test_every_name_has_an_implementation_on_both_paths():
    assert tuple(filtering.FILTERS) == tuple(reference.FILTERS) == FILTERS
    assert (*weighting.POOLED, "spatial") == WEIGHTINGS
    for preset in PRESETS:
        CFCAMConfig.preset(preset)


def test_min_samples_is_a_fraction_of_the_clustered_channels():
    assert [CFCAMConfig().min_samples(n) for n in (2, 59, 60, 1536)] == [2, 2, 3, 76]


def test_an_unknown_engine_is_an_error():
    features = torch.rand(1, 4, 3, 3)
    with pytest.raises(
        BackendError,
        match=r"unknown engine 'numpy' \(did you mean numba\?\); choose one of: auto, numba, torch",
    ):
        explain_activations(features, features, (3, 3), engine="numpy")
