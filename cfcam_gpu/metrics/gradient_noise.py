"""How far the heatmap moves when noise is added to the layer's gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from cfcam_gpu.metrics.base import Case
from cfcam_gpu.metrics.noise import SSIM_SOURCE, noise_columns, noise_curves, noise_values
from cfcam_gpu.metrics.options import MetricOptions


def gradient_noise(case: Case, options: MetricOptions) -> dict[str, Tensor]:
    """SSIM and mean squared error between the heatmap from noisy gradients and the clean heatmap.

    The noise is added to the raw gradients, before they are filtered or pooled. Its standard deviation is the level
    times the standard deviation of the image's own gradients over (C,h,w). The value at a level is the mean over
    `options.noise_draws` draws, the same draws at every level. See the module `noise` for how to read a high value.

    NaN for methods that use no gradients, which such noise cannot reach, and for blank clean maps. A noisy
    heatmap that is blank counts as zeros.

    Returns:
        gradient_noise_ssim, gradient_noise_mse: (B,) float32 at the middle level (position S // 2).
        gradient_noise_ssim_curve, gradient_noise_mse_curve: (B,S) float32, over `options.noise_levels`.

    Raises:
        ConfigError: the case has no `maps`.

    Example:
        >>> heatmaps = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> class Maps:  # of a method that does not depend on the gradients
        ...     gradients = torch.ones(1, 4, 2, 2)
        ...     def of_gradients(self, gradients):
        ...         return heatmaps
        >>> def model(images):
        ...     return images[:, :, 0, 0]
        >>> case = Case.of_heatmaps(model, torch.ones(1, 3, 16, 16), torch.tensor([0]), heatmaps, maps=Maps())
        >>> gradient_noise(case, MetricOptions(noise_draws=1))["gradient_noise_mse"]
        tensor([0.])
    """
    maps = case.map_maker
    gradients = maps.gradients
    if gradients is None:
        undefined = torch.full((len(case.heatmaps), len(options.noise_levels)), torch.nan)
        return noise_values("gradient_noise", undefined, undefined)
    spread = gradients.flatten(1).std(1, correction=0)[:, None, None, None]

    def noisy(level: float, noise: Tensor) -> Tensor:
        return maps.of_gradients(gradients + level * spread * noise)

    curves = noise_curves(case, options, options.noise_levels, gradients.shape[1:], noisy)
    return noise_values("gradient_noise", *curves)


COLUMNS = noise_columns("gradient_noise", "the gradients (in units of their own spread)")
SOURCE = SSIM_SOURCE
