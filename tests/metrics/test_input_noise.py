"""Noise on the image: its size, its range, and the target."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cfcam_gpu.metrics.input_noise import input_noise
from cfcam_gpu.metrics.options import MetricOptions
from tests.helpers.fixed_maps import Recorder, case_without_blanks, tiny_maps


def test_input_noise_is_clipped_and_keeps_the_target():
    case = case_without_blanks(size=32)
    recorder = Recorder(tiny_maps(case))
    input_noise(replace(case, maps=recorder), MetricOptions(input_noise_levels=(0.05, 0.5), noise_draws=1))
    (weak, targets), (strong, _) = recorder.calls
    assert torch.equal(targets, case.targets)
    assert strong.min() == 0
    assert strong.max() == 1
    inner = (case.images > 0.3) & (case.images < 0.7)
    assert (weak - case.images)[inner].std() == pytest.approx(0.05, abs=0.005)
