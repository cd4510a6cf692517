"""Stand-ins for a method that makes more heatmaps, and cases without blank ones, for tests of the metrics."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cfcam_gpu.metrics.base import Case
from tests.helpers.metric_cases import TinyMaps, subset, tiny_case


class Recorder:
    """Passes on to a `TinyMaps` and keeps the arguments of the calls."""

    def __init__(self, maps: TinyMaps) -> None:
        self.maps = maps
        self.module = maps.module
        self.calls: list[tuple[Tensor, ...]] = []

    @property
    def gradients(self) -> Tensor:
        return self.maps.gradients

    def of_gradients(self, gradients: Tensor) -> Tensor:
        self.calls.append((gradients,))
        return self.maps.of_gradients(gradients)

    def of_images(self, images: Tensor, targets: Tensor) -> Tensor:
        self.calls.append((images, targets))
        return self.maps.of_images(images, targets)

    def of_model(self, model: nn.Module) -> Tensor:
        return self.maps.of_model(model)


class Fixed:
    """A method that always shows the same map, whatever the gradients, image, class and weights are."""

    def __init__(self, heatmaps: Tensor, gradients: Tensor | None, module: nn.Module | None = None) -> None:
        self.heatmaps, self.gradients = heatmaps, gradients
        self.module = module or nn.Identity()

    def of_gradients(self, gradients: Tensor) -> Tensor:
        return self.heatmaps

    def of_images(self, images: Tensor, targets: Tensor) -> Tensor:
        if targets.ndim == 1:
            return self.heatmaps
        return self.heatmaps[:, None].expand(-1, targets.shape[1], -1, -1)

    def of_model(self, model: nn.Module) -> Tensor:
        return self.heatmaps


def case_without_blanks(n: int = 3, size: int = 16) -> Case:
    """A `tiny_case` of `n` images whose heatmaps are not blank."""
    case = tiny_case(4 * n, size)
    indices = (~case.blank).nonzero()[:n, 0]
    assert len(indices) == n
    return subset(case, indices)


def tiny_maps(case: Case) -> TinyMaps:
    """The `maps` of a case, which are a `TinyMaps`."""
    assert isinstance(case.maps, TinyMaps)
    return case.maps


def correlation_or_nan(a: Tensor, b: Tensor) -> float:
    """NumPy's correlation of two maps; NaN where one is constant."""
    if any(x.min() == x.max() for x in (a, b)):
        return torch.nan
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]).double())[0, 1].item()
