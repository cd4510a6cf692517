"""Curves of the target's probability while pixels are replaced, the most important first: deletion and insertion."""

from __future__ import annotations

import torch
from torch import Tensor

from cfcam_gpu.metrics.base import Case, Column
from cfcam_gpu.metrics.masking import black, blurred

#: What takes the place of pixels that are deleted or not yet inserted.
BASELINES = {"black": black, "blur": blurred}
_BASELINE_WORDS = {"black": "black", "blur": "the blurred image"}

RISE = "Petsiuk et al., RISE, BMVC 2018, arXiv 1806.07421, section 3.3"


def pixel_counts(case: Case, steps: int) -> Tensor:
    """Number of replaced pixels (S,) int64 at each step: none at the first, all at the last, evenly between.

    Example:
        >>> heatmaps = torch.zeros(1, 3, 3)
        >>> case = Case.of_heatmaps(lambda x: x[:, :2, 0, 0], torch.ones(1, 3, 3, 3), torch.tensor([0]), heatmaps)
        >>> pixel_counts(case, 4)
        tensor([0, 3, 6, 9])
    """
    pixels = case.heatmaps[0].numel()
    return torch.arange(steps, device=case.heatmaps.device) * pixels // (steps - 1)


def _curve_area(curve: Tensor, counts: Tensor) -> Tensor:
    """Area (B,) in [0,1] under curves (B,S) over the share of replaced pixels, by the trapezoidal rule.

    `counts` (S,) are the `pixel_counts` of the curve's positions.
    """
    return torch.trapezoid(curve, counts / counts[-1], dim=1)


def with_areas(metric: str, curves: dict[str, Tensor], counts: Tensor) -> dict[str, Tensor]:
    """The values of `curve_columns`: the area (B,) under each baseline's curve, and the curve (B,S) itself.

    Example:
        >>> with_areas("deletion", {"black": torch.tensor([[1.0, 0.0]])}, torch.tensor([0, 16]))
        {'deletion_black_auc': tensor([0.5000]), 'deletion_black_curve': tensor([[1., 0.]])}
    """
    areas = {f"{metric}_{name}_auc": _curve_area(curve, counts) for name, curve in curves.items()}
    return areas | {f"{metric}_{name}_curve": curve for name, curve in curves.items()}


def curve_columns(metric: str, better: str, about: str) -> tuple[Column, ...]:
    """For each of `BASELINES` a column of the area and one of the curve; `about` describes the curve.

    Example:
        >>> [column.name for column in curve_columns("deletion", "lower", "Pixels turn to {baseline}.")]
        ['deletion_black_auc', 'deletion_blur_auc', 'deletion_black_curve', 'deletion_blur_curve']
    """
    areas = [
        Column(
            f"{metric}_{name}_auc",
            better,
            f"Area under {metric}_{name}_curve over the share of pixels, 0 to 1.",
        )
        for name in BASELINES
    ]
    curves = [
        Column(f"{metric}_{name}_curve", better, about.format(baseline=_BASELINE_WORDS[name]), curve=True)
        for name in BASELINES
    ]
    return (*areas, *curves)
