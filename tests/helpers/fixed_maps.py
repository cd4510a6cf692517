"""Stand-ins for a method's maps, and cases without blank ones, for tests of robustness and sanity."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cfcam_gpu.metrics.base import Case
from tests.helpers.metric_cases import TinyMaps, part, tiny_case


class Recorder:
    """Passes on to another `Maps` and keeps what it was asked for."""

    def __init__(self, maps: TinyMaps) -> None:
        self.maps = maps
        self.asked: list[tuple[Tensor, ...]] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self.maps, name)

    def of_gradients(self, gradients: Tensor) -> Tensor:
        self.asked.append((gradients,))
        return self.maps.of_gradients(gradients)

    def of_images(self, images: Tensor, targets: Tensor) -> Tensor:
        self.asked.append((images, targets))
        return self.maps.of_images(images, targets)


class Fixed:
    """A method that always shows the same map, whatever the gradients, image, class and weights."""

    def __init__(self, heatmaps: Tensor, gradients: Tensor | None, module: nn.Module | None = None) -> None:
        self.heatmaps, self.gradients, self.module = heatmaps, gradients, module

    def of_gradients(self, gradients: Tensor) -> Tensor:
        return self.heatmaps

    def of_images(self, images: Tensor, targets: Tensor) -> Tensor:
        if targets.ndim == 1:
            return self.heatmaps
        return self.heatmaps[:, None].expand(-1, targets.shape[1], -1, -1)

    def of_model(self, model: nn.Module) -> Tensor:
        return self.heatmaps


def seen_case(n: int = 3, size: int = 16) -> Case:
    """A case of `n` images whose maps are not blank."""
    case = tiny_case(4 * n, size)
    chosen = (~case.blank).nonzero()[:n, 0]
    assert len(chosen) == n
    return part(case, chosen)


def correlation_or_nan(a: Tensor, b: Tensor) -> float:
    """NumPy's correlation of two maps; NaN where one is constant."""
    constant = any(x.min() == x.max() for x in (a, b))
    return (
        torch.nan
        if constant
        else torch.corrcoef(torch.stack([a.flatten(), b.flatten()]).double())[0, 1].item()
    )
