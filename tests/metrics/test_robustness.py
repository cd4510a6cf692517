"""Noise on gradients and images, and dependence on the class."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cfcam_gpu import CFCAM, CFCAMConfig, explain_activations
from cfcam_gpu.metrics.base import Case
from cfcam_gpu.metrics.class_sensitivity import class_sensitivity
from cfcam_gpu.metrics.options import MetricOptions
from cfcam_gpu.metrics.registry import METRICS
from cfcam_gpu.metrics.robustness import gradient_noise, input_noise
from cfcam_gpu.metrics.similarity import correlation, ssim
from tests.helpers.fixed_maps import Fixed, Recorder, correlation_or_nan, seen_case
from tests.helpers.metric_cases import part, tiny_case

OPTIONS = MetricOptions(noise_draws=2)
SHORT = MetricOptions(noise_levels=(2.0,), input_noise_levels=(0.1,), noise_draws=1)
NOISE = {"gradient_noise": gradient_noise, "input_noise": input_noise}


def fixed_case() -> Case:
    case = seen_case()
    return replace(case, maps=Fixed(case.heatmaps, case.maps.gradients))


@pytest.mark.parametrize("name", NOISE)
def test_columns_are_those_of_the_table_and_the_middle_level_is_the_curves(name):
    values = NOISE[name](seen_case(), OPTIONS)
    metric = METRICS[name]
    assert metric.function is NOISE[name]
    assert set(values) == {column.name for column in metric.columns}
    for measure in ("ssim", "mse"):
        curve = values[f"{name}_{measure}_curve"]
        assert curve.shape == (3, len(getattr(OPTIONS, f"{name.removeprefix('gradient_')}_levels")))
        assert torch.equal(values[f"{name}_{measure}"], curve[:, curve.shape[1] // 2])
        assert not curve.isnan().any()


@pytest.mark.parametrize("name", NOISE)
def test_more_noise_moves_the_map_further(name):
    values = NOISE[name](seen_case(8, size=32), MetricOptions(noise_draws=4))
    similarity, error = values[f"{name}_ssim_curve"].mean(0), values[f"{name}_mse_curve"].mean(0)
    assert similarity[0] > similarity[-1]
    assert error[0] < error[-1]
    assert 0.5 < similarity[0] < 1


@pytest.mark.parametrize("name", NOISE)
def test_almost_no_noise_changes_almost_nothing(name):
    tiny = MetricOptions(noise_levels=(1e-5,), input_noise_levels=(1e-5,))
    values = NOISE[name](seen_case(), tiny)
    torch.testing.assert_close(values[f"{name}_ssim"], torch.ones(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(values[f"{name}_mse"], torch.zeros(3), atol=1e-5, rtol=0)


def test_gradient_noise_is_measured_in_the_spread_of_each_images_own_gradients():
    """Standard deviation level × spread, the same draw at each level, another draw by draw and by image."""
    case = seen_case(size=64)
    scale = torch.tensor([1.0, 1e-6, 1e6])[:, None, None, None]
    case.maps.gradients = case.maps.gradients * scale
    recorder = Recorder(case.maps)
    gradient_noise(replace(case, maps=recorder), MetricOptions(noise_levels=(1.0, 4.0), noise_draws=2))
    spread = case.maps.gradients.flatten(1).std(1)[:, None, None, None]
    noise = [(asked - case.maps.gradients) / spread for (asked,) in recorder.asked]
    one, four, other, _ = noise
    torch.testing.assert_close(four, 4 * one, atol=1e-3, rtol=0)
    torch.testing.assert_close(one.flatten(1).std(1), torch.ones(3), atol=0.02, rtol=0)
    torch.testing.assert_close(one.flatten(1).mean(1), torch.zeros(3), atol=0.03, rtol=0)
    assert correlation(one.flatten(1)[:, None], other.flatten(1)[:, None]).abs().max() < 0.05
    assert correlation(one[:1].flatten(1)[:, None], one[1:2].flatten(1)[:, None]).abs().max() < 0.05


def test_gradient_noise_does_not_depend_on_the_gradients_unit():
    """Grad-CAM's map does not, either, so the figures are the same for a score a thousand times larger."""
    case, scaled = seen_case(), seen_case()
    scaled.maps.gradients = scaled.maps.gradients * 1024
    a, b = gradient_noise(case, OPTIONS), gradient_noise(scaled, OPTIONS)
    torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


def test_input_noise_is_clipped_and_keeps_the_target():
    case = seen_case(size=32)
    recorder = Recorder(case.maps)
    input_noise(replace(case, maps=recorder), MetricOptions(input_noise_levels=(0.05, 0.5), noise_draws=1))
    (weak, targets), (strong, _) = recorder.asked
    assert torch.equal(targets, case.targets)
    assert strong.min() == 0
    assert strong.max() == 1
    inner = (case.images > 0.3) & (case.images < 0.7)
    assert (weak - case.images)[inner].std() == pytest.approx(0.05, abs=0.005)


def test_methods_without_gradients_have_no_gradient_noise():
    case = seen_case()
    values = gradient_noise(replace(case, maps=Fixed(case.heatmaps, None)), OPTIONS)
    assert set(values) == {column.name for column in METRICS["gradient_noise"].columns}
    assert values["gradient_noise_ssim_curve"].shape == (3, len(OPTIONS.noise_levels))
    assert all(value.isnan().all() for value in values.values())


def test_a_map_that_ignores_everything_looks_robust_and_class_sensitivity_shows_why():
    case = fixed_case()
    for name, function in NOISE.items():
        torch.testing.assert_close(function(case, OPTIONS)[f"{name}_ssim"], torch.ones(3))
    for value in class_sensitivity(case, OPTIONS).values():
        torch.testing.assert_close(value, torch.ones(3))


@pytest.mark.parametrize("name", NOISE)
def test_blank_maps_are_not_robust_but_undefined(name):
    case = seen_case()
    heatmaps = case.heatmaps.clone()
    heatmaps[1] = 0
    case = replace(case, heatmaps=heatmaps, blank=torch.tensor([False, True, False]))
    for value in NOISE[name](case, OPTIONS).values():
        assert value[1].isnan().all()
        assert not value[[0, 2]].isnan().any()


@pytest.mark.parametrize("name", NOISE)
def test_a_map_that_noise_turns_blank_is_not_similar(name):
    case = seen_case()
    case = replace(case, maps=Fixed(torch.zeros_like(case.heatmaps), case.maps.gradients))
    values = NOISE[name](case, OPTIONS)
    torch.testing.assert_close(values[f"{name}_mse"], case.heatmaps.square().mean((1, 2)))
    expected = ssim(torch.zeros_like(case.heatmaps), case.heatmaps)
    torch.testing.assert_close(values[f"{name}_ssim"], expected)


@pytest.mark.parametrize("metric", [*NOISE.values(), class_sensitivity])
@given(st.integers(0, 4), st.integers(1, 5), st.integers(0, 50))
@settings(max_examples=6, deadline=None)
def test_an_images_values_do_not_depend_on_its_batch(metric, start, length, seed):
    case = tiny_case(5, seed=seed)
    index = slice(start, start + length)
    whole, some = metric(case, SHORT), metric(part(case, index), SHORT)
    torch.testing.assert_close(
        {name: value[index] for name, value in whole.items()}, some, atol=1e-4, rtol=0, equal_nan=True
    )


@pytest.mark.parametrize("metric", [*NOISE.values(), class_sensitivity])
def test_two_runs_are_identical_and_leave_the_random_state(metric):
    state = torch.random.get_rng_state()
    a, b = metric(seen_case(), OPTIONS), metric(seen_case(), OPTIONS)
    torch.testing.assert_close(a, b, atol=0, rtol=0, equal_nan=True)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("metric", NOISE.values())
def test_another_seed_draws_other_noise(metric):
    a, b = metric(seen_case(), OPTIONS), metric(seen_case(), replace(OPTIONS, seed=1))
    assert all(not torch.equal(a[name], b[name]) for name in a)


def test_class_sensitivity_compares_the_models_own_ranking():
    case = seen_case()
    recorder = Recorder(case.maps)
    values = class_sensitivity(replace(case, targets=torch.zeros_like(case.targets), maps=recorder), OPTIONS)
    ranking = case.model(case.images).argsort(1, descending=True)
    ((_, targets),) = recorder.asked
    assert torch.equal(targets, torch.stack([ranking[:, 0], ranking[:, 1], ranking[:, 3]], 1))
    maps = case.maps.of_images(case.images, targets)
    expected = [correlation_or_nan(top, least) for top, _, least in maps]
    torch.testing.assert_close(
        values["similarity_least"].double(),
        torch.tensor(expected).double(),
        atol=1e-4,
        rtol=0,
        equal_nan=True,
    )


def test_class_sensitivity_needs_two_classes_and_two_maps_that_are_not_blank():
    case = seen_case()
    single = class_sensitivity(replace(case, model=lambda images: images.mean((1, 2, 3))[:, None]), OPTIONS)
    assert all(value.shape == (3,) and value.isnan().all() for value in single.values())
    two = class_sensitivity(replace(case, model=lambda images: case.model(images)[:, :2]), OPTIONS)
    torch.testing.assert_close(two["similarity_second"], two["similarity_least"], equal_nan=True)
    blank = replace(case, maps=Fixed(torch.zeros_like(case.heatmaps), None))
    assert all(value.isnan().all() for value in class_sensitivity(blank, OPTIONS).values())


class RealMaps:
    """CF-CAM of the packaged model, `images` as the model takes them."""

    def __init__(self, cam: CFCAM, features: tuple[Tensor, Tensor], size: tuple[int, int]) -> None:
        self.cam, self.size = cam, size
        self.activations, gradients = features
        self.gradients = gradients[:, 0]

    def of_gradients(self, gradients: Tensor) -> Tensor:
        return explain_activations(self.activations, gradients, self.size, self.cam.config).heatmap

    def of_images(self, images: Tensor, targets: Tensor) -> Tensor:
        return self.cam(images, targets).heatmap


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "ignores_the_class"), [("default", False), ("upstream", True)])
def test_published_codes_preset_is_still_under_noise_because_it_ignores_the_class(
    preset, ignores_the_class, lite0, photo_batch, real_features
):
    """On real photos: its softmax makes equal weights of any gradients."""
    images = photo_batch[:2]
    features = tuple(value[:2] for value in real_features("_swish"))
    with CFCAM(lite0.model, "_swish", CFCAMConfig.preset(preset)) as cam, torch.no_grad():
        maps = RealMaps(cam, features, images.shape[2:])
        logits = lite0.model(images)
        heatmaps = maps.of_gradients(maps.gradients)
        case = Case(
            images, logits.argmax(1), logits.softmax(1).amax(1), heatmaps, heatmaps.amax((1, 2)) <= 0,
            torch.arange(2), lite0.model, maps,
        )  # fmt: skip
        noise = gradient_noise(case, MetricOptions(noise_levels=(8.0,), noise_draws=1))
        similarity = class_sensitivity(case, OPTIONS)["similarity_least"]
    assert (noise["gradient_noise_ssim"].min() > 0.999) == ignores_the_class
    assert (similarity.min() > 0.999) == ignores_the_class
