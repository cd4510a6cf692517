"""What comes out: heatmaps, what they were made from, and what is wrong with which image."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cfcam_gpu.config import NOISE
from cfcam_gpu.errors import InvalidImagesError

#: What can be wrong with one image of a batch; `Explanation.status` holds the position, 0 is none of them.
PROBLEMS = (
    None,
    "the layer's activations contain NaN or Inf",
    "the gradients contain NaN or Inf",
    "a target is not a class of the model",
    "the gradient of the target score is zero everywhere at the layer, so nothing can be explained",
    "the map contains NaN or Inf, as an earlier layer or the model's scores of changed inputs do",
)


@dataclass(frozen=True)
class Explanation:
    """Heatmaps of B images and what they were made from; with an axis K where K targets were asked for.

    Attributes:
        heatmap: (B,H,W) or (B,K,H,W) float32 in [0,1], each divided by its own maximum; zeros where blank.
        grid: (B,h,w) or (B,K,h,w) float32, the map at the layer's resolution, raw scale, not negative.
        blank: (B,) or (B,K) bool: no positive evidence (or a problem, see `status`).
        labels: (B,C) int64: cluster 0, 1, …; -1 noise; -2 dominant. This, n_clusters, eps and
            noise_fraction are None for methods that do not cluster.
        n_clusters: (B,) int64.
        eps: (B,) float64, DBSCAN's radius, in units of the activations.
        status: (B,) int64, position in `PROBLEMS`; 0 for a good image.
        engine: name of the engine that ran.
        logits: (B,classes) float32, None from `explain_activations`.
        targets: (B,) or (B,K) int64; None for callable targets and from `explain_activations`.
    """

    heatmap: Tensor
    grid: Tensor
    blank: Tensor
    labels: Tensor | None
    n_clusters: Tensor | None
    eps: Tensor | None
    status: Tensor
    engine: str
    logits: Tensor | None = None
    targets: Tensor | None = None

    @property
    def noise_fraction(self) -> Tensor | None:
        """(B,) float32 in [0,1]: noise channels among all channels."""
        return None if self.labels is None else (self.labels == NOISE).float().mean(1)

    @property
    def problems(self) -> list[str | None]:
        """What is wrong with each image, None for a good one. Waits for the device."""
        return [PROBLEMS[code] for code in self.status.tolist()]


def first_problem(found: list[tuple[int, Tensor]]) -> Tensor:
    """(B,) int64: the lowest code whose (B,) bool mask holds, else 0."""
    status = torch.zeros_like(found[0][1], dtype=torch.int64)
    for code, mask in reversed(found):
        status = torch.where(mask, code, status)
    return status


def without_invalid(result: Explanation) -> Explanation:
    """The result with zeros for the images that have a problem."""
    bad = result.status != 0
    return replace(
        result,
        heatmap=result.heatmap.masked_fill(bad[:, None, None, None], 0),
        grid=result.grid.masked_fill(bad[:, None, None, None], 0),
        blank=result.blank | bad[:, None],
    )


def finished(result: Explanation, single: bool, on_invalid: str) -> Explanation:
    """The result without the axis K where one target was asked for; its problems raised or left flagged."""
    result = _of_one_target(result) if single else result
    return _raise_invalid(result) if on_invalid == "raise" else result


def _of_one_target(result: Explanation) -> Explanation:
    """The result of K = 1 targets without the axis K."""
    targets = None if result.targets is None else result.targets[:, 0]
    heatmap, grid, blank = result.heatmap[:, 0], result.grid[:, 0], result.blank[:, 0]
    return replace(result, heatmap=heatmap, grid=grid, blank=blank, targets=targets)


def _raise_invalid(result: Explanation) -> Explanation:
    problems = {index: problem for index, problem in enumerate(result.problems) if problem}
    if problems:
        raise InvalidImagesError(problems)
    return result
