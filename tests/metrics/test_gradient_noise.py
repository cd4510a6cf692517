"""Noise on the gradients: its size, and that a map which ignores the class stays the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from cfcam_gpu import CFCAM, CFCAMConfig, explain_activations
from cfcam_gpu.metrics.base import Case
from cfcam_gpu.metrics.class_sensitivity import class_sensitivity
from cfcam_gpu.metrics.gradient_noise import COLUMNS, gradient_noise
from cfcam_gpu.metrics.options import MetricOptions
from cfcam_gpu.metrics.similarity import correlation
from tests.helpers.fixed_maps import Fixed, Recorder, case_without_blanks, tiny_maps
from tests.helpers.tolerances import SIMILARITY

OPTIONS = MetricOptions(noise_draws=2)


def test_gradient_noise_is_measured_in_the_spread_of_each_images_own_gradients():
    """Standard deviation level × spread, the same draw at each level, another draw by draw and by image."""
    case = case_without_blanks(size=64)
    scale = torch.tensor([1.0, 1e-6, 1e6])[:, None, None, None]
    maps = tiny_maps(case)
    maps.gradients = maps.gradients * scale
    recorder = Recorder(maps)
    gradient_noise(replace(case, maps=recorder), MetricOptions(noise_levels=(1.0, 4.0), noise_draws=2))
    spread = maps.gradients.flatten(1).std(1)[:, None, None, None]
    noise = [(gradients - maps.gradients) / spread for (gradients,) in recorder.calls]
    one, four, other, _ = noise
    torch.testing.assert_close(four, 4 * one, atol=1e-3, rtol=0)
    torch.testing.assert_close(one.flatten(1).std(1), torch.ones(3), atol=0.02, rtol=0)
    torch.testing.assert_close(one.flatten(1).mean(1), torch.zeros(3), atol=0.03, rtol=0)
    assert correlation(one.flatten(1)[:, None], other.flatten(1)[:, None]).abs().max() < 0.05
    assert correlation(one[:1].flatten(1)[:, None], one[1:2].flatten(1)[:, None]).abs().max() < 0.05


def test_gradient_noise_does_not_depend_on_the_gradients_unit():
    """Grad-CAM's map does not, either, so the figures are the same for a score a thousand times larger."""
    case, scaled = case_without_blanks(), case_without_blanks()
    tiny_maps(scaled).gradients *= 1024
    a, b = gradient_noise(case, OPTIONS), gradient_noise(scaled, OPTIONS)
    torch.testing.assert_close(a, b, atol=SIMILARITY, rtol=0)


def test_methods_without_gradients_have_no_gradient_noise():
    case = case_without_blanks()
    values = gradient_noise(replace(case, maps=Fixed(case.heatmaps, None)), OPTIONS)
    assert set(values) == {column.name for column in COLUMNS}
    assert values["gradient_noise_ssim_curve"].shape == (3, len(OPTIONS.noise_levels))
    assert all(value.isnan().all() for value in values.values())


class RealMaps:
    """CF-CAM of the packaged model, `images` as the model takes them."""

    def __init__(self, cam: CFCAM, features: tuple[Tensor, Tensor], size: tuple[int, int]) -> None:
        self.cam, self.size = cam, size
        self.activations, gradients = features
        self.gradients = gradients[:, 0]
        self.module = cam.model

    def of_gradients(self, gradients: Tensor) -> Tensor:
        return explain_activations(self.activations, gradients, self.size, self.cam.config).heatmap

    def of_images(self, images: Tensor, targets: Tensor) -> Tensor:
        return self.cam(images, targets).heatmap

    def of_model(self, model: nn.Module) -> Tensor:
        raise NotImplementedError


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
        case = Case.of_heatmaps(lite0.model, images, logits.argmax(1), heatmaps, maps=maps)
        noise = gradient_noise(case, MetricOptions(noise_levels=(8.0,), noise_draws=1))
        similarity = class_sensitivity(case, OPTIONS)["similarity_least"]
    assert (noise["gradient_noise_ssim"].min() > 0.999) == ignores_the_class
    assert (similarity.min() > 0.999) == ignores_the_class
