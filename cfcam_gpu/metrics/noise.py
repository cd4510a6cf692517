"""How far a heatmap moves under Gaussian noise: what `gradient_noise` and `input_noise` share.

A map that does not depend on what is disturbed does not move. So a high similarity is a merit only where
`class_sensitivity` shows that the map depends on the class: the softmax of the `upstream` preset makes nearly equal
weights of any gradients, and its map stays the same under gradient noise for that reason alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from cfcam_gpu.metrics.base import Case, Column
from cfcam_gpu.metrics.options import MetricOptions
from cfcam_gpu.metrics.similarity import squared_error, ssim

SSIM_SOURCE = "SSIM: Wang et al. 2004, 10.1109/TIP.2003.819861"


def normal(seeds: Tensor, seed: int, draw: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal numbers (B,*shape) float32 on the CPU, from a generator of its own for each image.

    They depend only on the image's seed in `seeds` (B,) int64, on the `seed` of the options and on the number of
    the draw, so the batch around an image does not matter. The generator is NumPy's: it mixes several seeds and uses
    all their bits, where PyTorch's on the CPU uses 32.

    Example:
        >>> seeds = torch.tensor([7, 8])
        >>> noise = normal(seeds, seed=0, draw=0, shape=(2, 3))
        >>> noise.shape, torch.equal(noise[1:], normal(seeds[1:], seed=0, draw=0, shape=(2, 3)))
        (torch.Size([2, 2, 3]), True)
    """
    keys = [[key % 2**64, seed, draw] for key in seeds.tolist()]
    draws = [np.random.default_rng(key).standard_normal(shape, dtype=np.float32) for key in keys]
    return torch.from_numpy(np.stack(draws))


def noise_curves(
    case: Case,
    options: MetricOptions,
    levels: Sequence[float],
    shape: Sequence[int],
    heatmaps_of: Callable[[float, Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """SSIM and mean squared error (B,S) of disturbed heatmaps against the clean ones, mean over the draws.

    NaN for blank clean maps.

    Args:
        levels: S strengths of the noise.
        shape: shape of an image's noise.
        heatmaps_of: from a level and noise (B,*shape) to the disturbed heatmaps (B,H,W).

    Example:
        >>> heatmaps = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> case = Case.of_heatmaps(lambda x: x[:, :2, 0, 0], torch.ones(1, 3, 16, 16), torch.tensor([0]), heatmaps)
        >>> def heatmaps_of(level, noise):  # a method that does not feel the noise
        ...     return heatmaps
        >>> similarity, error = noise_curves(case, MetricOptions(noise_draws=1), [1.0, 2.0], (4,), heatmaps_of)
        >>> error
        tensor([[0., 0.]])
    """
    similarity = torch.zeros(len(case.heatmaps), len(levels), device=case.heatmaps.device)
    error = torch.zeros_like(similarity)
    for draw in range(options.noise_draws):
        noise = normal(case.seeds, options.seed, draw, tuple(shape)).to(case.heatmaps.device)
        for step, level in enumerate(levels):
            heatmaps = heatmaps_of(level, noise)
            similarity[:, step] += ssim(heatmaps, case.heatmaps) / options.noise_draws
            error[:, step] += squared_error(heatmaps, case.heatmaps) / options.noise_draws
    blank = case.blank[:, None]
    return similarity.masked_fill(blank, torch.nan), error.masked_fill(blank, torch.nan)


def noise_values(metric: str, similarity: Tensor, error: Tensor) -> dict[str, Tensor]:
    """The values of `noise_columns` from curves (B,S): the middle level (position S // 2), and all levels.

    Example:
        >>> similarity, error = torch.tensor([[0.9, 0.8, 0.2]]), torch.tensor([[0.0, 0.1, 0.4]])
        >>> values = noise_values("input_noise", similarity, error)
        >>> values["input_noise_ssim"], values["input_noise_mse"]
        (tensor([0.8000]), tensor([0.1000]))
    """
    middle = similarity.shape[1] // 2
    return {
        f"{metric}_ssim": similarity[:, middle],
        f"{metric}_mse": error[:, middle],
        f"{metric}_ssim_curve": similarity,
        f"{metric}_mse_curve": error,
    }


def noise_columns(metric: str, where: str) -> tuple[Column, ...]:
    """Columns of the similarity and the error, at the middle level and at each level; `where` the noise is added.

    Example:
        >>> [column.name for column in noise_columns("input_noise", "the image")][:2]
        ['input_noise_ssim', 'input_noise_mse']
    """
    return tuple(
        Column(
            f"{metric}_{measure}{suffix}",
            better,
            f"{about} of the maps without and with Gaussian noise on {where}, {level}.",
            curve=bool(suffix),
        )
        for suffix, level in (("", "at the middle level"), ("_curve", "at each level"))
        for measure, better, about in (
            ("ssim", "higher", "SSIM (-1 to 1)"),
            ("mse", "lower", "Mean squared error (0 to 1)"),
        )
    )
