"""How far the heatmap moves when noise is added to the image."""

from __future__ import annotations

from torch import Tensor

from cfcam_gpu.metrics.base import Case
from cfcam_gpu.metrics.noise import SSIM_SOURCE, noise_columns, noise_curves, noise_values
from cfcam_gpu.metrics.options import MetricOptions


def input_noise(case: Case, options: MetricOptions) -> dict[str, Tensor]:
    """SSIM and mean squared error between the heatmap of a noisy image and the clean heatmap, for the same target.

    The noise is added to the image in [0,1] with the level as its standard deviation, and the sum is clipped
    to [0,1]. The value at a level is the mean over `options.noise_draws` draws, the same draws at every level. See
    the module `noise` for how to read a high value.

    NaN for blank clean maps. A noisy heatmap that is blank counts as zeros.

    Returns:
        input_noise_ssim, input_noise_mse: (B,) float32 at the middle level (position S // 2).
        input_noise_ssim_curve, input_noise_mse_curve: (B,S) float32, over `options.input_noise_levels`.

    Raises:
        ConfigError: the case has no `maps`.

    Example:
        >>> import torch
        >>> class Maps:  # of a method whose map is the image itself
        ...     def of_images(self, images, targets):
        ...         return images.mean(1)
        >>> def model(images):
        ...     return images[:, :, 0, 0]
        >>> images = torch.full((1, 3, 32, 32), 0.5)
        >>> case = Case.of_heatmaps(model, images, torch.tensor([0]), images.mean(1), maps=Maps())
        >>> values = input_noise(case, MetricOptions(input_noise_levels=(0.1, 0.2), noise_draws=1))
        >>> (values["input_noise_mse_curve"] * 3).sqrt().round(decimals=1)  # the mean of three channels
        tensor([[0.1000, 0.2000]])
    """
    maps = case.map_maker

    def noisy(level: float, noise: Tensor) -> Tensor:
        return maps.of_images((case.images + level * noise).clamp(0, 1), case.targets)

    curves = noise_curves(case, options, options.input_noise_levels, case.images.shape[1:], noisy)
    return noise_values("input_noise", *curves)


COLUMNS = noise_columns("input_noise", "the image")
SOURCE = SSIM_SOURCE
