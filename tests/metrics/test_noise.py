"""What holds for noise on gradients and on images alike, and the random numbers themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cfcam_gpu.metrics import Case, MetricOptions
from cfcam_gpu.metrics.class_sensitivity import class_sensitivity
from cfcam_gpu.metrics.gradient_noise import gradient_noise
from cfcam_gpu.metrics.input_noise import input_noise
from cfcam_gpu.metrics.noise import normal
from cfcam_gpu.metrics.similarity import ssim
from tests.helpers.fixed_maps import Fixed, case_without_blanks, tiny_maps

OPTIONS = MetricOptions(noise_draws=2)

NOISE = {"gradient_noise": gradient_noise, "input_noise": input_noise}


def fixed_case() -> Case:
    case = case_without_blanks()
    return replace(case, maps=Fixed(case.heatmaps, tiny_maps(case).gradients))


@pytest.mark.parametrize("name", NOISE)
def test_the_middle_level_is_that_of_the_curve(name: str):
    values = NOISE[name](case_without_blanks(), OPTIONS)
    for measure in ("ssim", "mse"):
        curve = values[f"{name}_{measure}_curve"]
        assert curve.shape == (3, len(getattr(OPTIONS, f"{name.removeprefix('gradient_')}_levels")))
        assert torch.equal(values[f"{name}_{measure}"], curve[:, curve.shape[1] // 2])
        assert not curve.isnan().any()


@pytest.mark.parametrize("name", NOISE)
def test_more_noise_moves_the_map_further(name: str):
    values = NOISE[name](case_without_blanks(8, size=32), MetricOptions(noise_draws=4))
    similarity, error = values[f"{name}_ssim_curve"].mean(0), values[f"{name}_mse_curve"].mean(0)
    assert similarity[0] > similarity[-1]
    assert error[0] < error[-1]
    assert 0.5 < similarity[0] < 1


@pytest.mark.parametrize("name", NOISE)
def test_almost_no_noise_changes_almost_nothing(name: str):
    tiny = MetricOptions(noise_levels=(1e-5,), input_noise_levels=(1e-5,))
    values = NOISE[name](case_without_blanks(), tiny)
    torch.testing.assert_close(values[f"{name}_ssim"], torch.ones(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(values[f"{name}_mse"], torch.zeros(3), atol=1e-5, rtol=0)


def test_a_map_that_ignores_everything_looks_robust_and_class_sensitivity_shows_why():
    case = fixed_case()
    for name, function in NOISE.items():
        torch.testing.assert_close(function(case, OPTIONS)[f"{name}_ssim"], torch.ones(3))
    for value in class_sensitivity(case, OPTIONS).values():
        torch.testing.assert_close(value, torch.ones(3))


@pytest.mark.parametrize("name", NOISE)
def test_blank_maps_are_not_robust_but_undefined(name: str):
    case = case_without_blanks()
    heatmaps = case.heatmaps.clone()
    heatmaps[1] = 0
    case = replace(case, heatmaps=heatmaps, blank=torch.tensor([False, True, False]))
    for value in NOISE[name](case, OPTIONS).values():
        assert value[1].isnan().all()
        assert not value[[0, 2]].isnan().any()


@pytest.mark.parametrize("name", NOISE)
def test_a_map_that_noise_turns_blank_is_not_similar(name: str):
    case = case_without_blanks()
    case = replace(case, maps=Fixed(torch.zeros_like(case.heatmaps), tiny_maps(case).gradients))
    values = NOISE[name](case, OPTIONS)
    torch.testing.assert_close(values[f"{name}_mse"], case.heatmaps.square().mean((1, 2)))
    expected = ssim(torch.zeros_like(case.heatmaps), case.heatmaps)
    torch.testing.assert_close(values[f"{name}_ssim"], expected)


@pytest.mark.parametrize("metric", NOISE.values())
def test_another_seed_draws_other_noise(metric: Callable[..., dict[str, Tensor]]):
    a, b = metric(case_without_blanks(), OPTIONS), metric(case_without_blanks(), replace(OPTIONS, seed=1))
    assert all(not torch.equal(a[name], b[name]) for name in a)


def test_random_numbers_belong_to_the_image():
    """Neither the batch nor its order changes an image's draw; seed and draw do, also above 32 bits."""
    seeds = torch.tensor([5, -1, 2**40 + 5])
    together = normal(seeds, 0, 0, (500,))
    assert torch.equal(together[2:], normal(seeds[2:], 0, 0, (500,)))
    others = torch.cat([together, normal(seeds[:1], 1, 0, (500,)), normal(seeds[:1], 0, 1, (500,))])
    assert torch.corrcoef(others).triu(1).abs().max() < 0.2
    assert abs(together.std() - 1) < 0.1
