"""How far the heatmap moves under Gaussian noise: on the layer's gradients, or on the image.

A map that does not depend on what is disturbed does not move. So a high value is a merit only where
`class_sensitivity` shows that the map depends on the class: the `upstream` preset's softmax makes nearly equal
weights of any gradients, and its map stays still under gradient noise for that reason alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cfcam_gpu.metrics.base import Case, Column, Metric, normal
from cfcam_gpu.metrics.options import MetricOptions
from cfcam_gpu.metrics.similarity import squared_error, ssim


def gradient_noise(case: Case, options: MetricOptions) -> dict[str, Tensor]:
    """SSIM and squared error of the map from noisy gradients against the clean map.

    The noise is added to the raw gradients, before any filtering and pooling. Its standard deviation is the
    level times the spread of the image's own gradients: their standard deviation over (C,h,w). A level's value
    is the mean over `options.noise_draws` draws, the same draws at every level.

    NaN for methods that use no gradients (such noise cannot reach their maps) and for blank clean maps. A noisy
    map that is blank counts as zeros.

    Returns:
        gradient_noise_ssim, gradient_noise_mse: (B,) float32 at the middle level (position S // 2).
        gradient_noise_ssim_curve, gradient_noise_mse_curve: (B,S) float32, over `options.noise_levels`.
    """
    gradients = case.maps.gradients
    if gradients is None:
        undefined = torch.full((len(case.heatmaps), len(options.noise_levels)), torch.nan)
        return _columns("gradient_noise", undefined, undefined)
    spread = gradients.flatten(1).std(1, correction=0)[:, None, None, None]

    def disturbed(level: float, noise: Tensor) -> Tensor:
        return case.maps.of_gradients(gradients + level * spread * noise)

    curves = _curves(case, options, options.noise_levels, gradients.shape[1:], disturbed)
    return _columns("gradient_noise", *curves)


def input_noise(case: Case, options: MetricOptions) -> dict[str, Tensor]:
    """SSIM and squared error of the map of a noisy image against the clean map, for the same target.

    The noise is added to the image in [0,1], with the level as its standard deviation, and the sum is clipped
    to [0,1]. A level's value is the mean over `options.noise_draws` draws, the same draws at every level.

    NaN for blank clean maps. A noisy map that is blank counts as zeros.

    Returns:
        input_noise_ssim, input_noise_mse: (B,) float32 at the middle level (position S // 2).
        input_noise_ssim_curve, input_noise_mse_curve: (B,S) float32, over `options.input_noise_levels`.
    """

    def disturbed(level: float, noise: Tensor) -> Tensor:
        return case.maps.of_images((case.images + level * noise).clamp(0, 1), case.targets)

    curves = _curves(case, options, options.input_noise_levels, case.images.shape[1:], disturbed)
    return _columns("input_noise", *curves)


def _curves(
    case: Case,
    options: MetricOptions,
    levels: Sequence[float],
    shape: Sequence[int],
    disturbed: Callable[[float, Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """SSIM and squared error (B,S) against the clean map, mean over draws of noise (B,*shape)."""
    similarity = torch.zeros(len(case.heatmaps), len(levels), device=case.heatmaps.device)
    error = torch.zeros_like(similarity)
    for draw in range(options.noise_draws):
        noise = normal(case.seeds, options.seed, draw, tuple(shape)).to(case.heatmaps.device)
        for step, level in enumerate(levels):
            maps = disturbed(level, noise)
            similarity[:, step] += ssim(maps, case.heatmaps) / options.noise_draws
            error[:, step] += squared_error(maps, case.heatmaps) / options.noise_draws
    blank = case.blank[:, None]
    return similarity.masked_fill(blank, torch.nan), error.masked_fill(blank, torch.nan)


def _columns(name: str, similarity: Tensor, error: Tensor) -> dict[str, Tensor]:
    middle = similarity.shape[1] // 2
    return {
        f"{name}_ssim": similarity[:, middle],
        f"{name}_mse": error[:, middle],
        f"{name}_ssim_curve": similarity,
        f"{name}_mse_curve": error,
    }


def _metric(name: str, noise: str, function: Callable[[Case, MetricOptions], dict[str, Tensor]]) -> Metric:
    columns = tuple(
        Column(
            f"{name}_{measure}{suffix}",
            better,
            f"{about} of the maps without and with Gaussian noise on {noise}, {where}.",
            curve=bool(suffix),
        )
        for suffix, where in (("", "at the middle level"), ("_curve", "at each level"))
        for measure, better, about in (
            ("ssim", "higher", "SSIM (-1 to 1)"),
            ("mse", "lower", "Mean squared error (0 to 1)"),
        )
    )
    return Metric(name, function, columns, "SSIM: Wang et al. 2004, 10.1109/TIP.2003.819861")


GRADIENT_NOISE = _metric("gradient_noise", "the gradients (in units of their own spread)", gradient_noise)
INPUT_NOISE = _metric("input_noise", "the image", input_noise)
