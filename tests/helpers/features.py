"""Activations and gradients for tests, and the comparison of an engine with the reference."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cfcam_gpu import CFCAMConfig, Explanation, explain_activations
from cfcam_gpu.cfcam.clustering import Clusters
from cfcam_gpu.cfcam.reference import is_dominant, pairwise_distances
from cfcam_gpu.config import EPS_SLACK
from cfcam_gpu.engines import ENGINES
from tests.helpers.tolerances import CANCELLED, MAP, PEAK, TIE


def blobs(batch: int, channels: int, h: int, w: int, clusters: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Channels scattered around `clusters` prototype maps, a tenth of them far from all, some dead.

    Activations (B,C,h,w) not negative, gradients of both signs, each cluster with its own sign.
    """
    rng = np.random.default_rng(seed)
    prototypes = rng.uniform(0, 4, (batch, clusters, h, w))
    member = rng.integers(0, clusters, (batch, channels))
    spread = np.where(rng.random((batch, channels)) < 0.1, 3.0, 0.15)[..., None, None]
    chosen = np.take_along_axis(prototypes, member[..., None, None], axis=1)
    activations = np.maximum(chosen + spread * rng.standard_normal((batch, channels, h, w)), 0)
    activations[rng.random((batch, channels)) < 0.05] = 0
    slope = rng.standard_normal((batch, clusters))[np.arange(batch)[:, None], member]
    gradients = 1e-2 * (slope[..., None, None] + rng.standard_normal((batch, channels, h, w)))
    return torch.from_numpy(activations).float(), torch.from_numpy(gradients).float()


def near_ties(activations: np.ndarray, eps: float, config: CFCAMConfig) -> int:
    """Pairs of clustered channels of one image whose distance lies within `TIE` of DBSCAN's radius."""
    features = activations.reshape(len(activations), -1).astype(np.float64)
    distances = pairwise_distances(features[~is_dominant(features, config)])
    return int((np.abs(distances / (eps * (1 + EPS_SLACK)) - 1) <= TIE).sum()) // 2


@dataclass(frozen=True)
class Run:
    """An engine on a device that has it here."""

    engine: str
    device: str

    def explain(
        self,
        activations: Tensor,
        gradients: Tensor,
        size: tuple[int, int],
        config: CFCAMConfig | None = None,
        on_invalid: str = "raise",
    ) -> Explanation:
        """`explain_activations` there; the result comes back to the CPU."""
        a, g = activations.to(self.device), gradients.to(self.device)
        result = explain_activations(a, g, size, config, self.engine, on_invalid)
        tensors: dict[str, Any] = {
            name: value.cpu() for name, value in vars(result).items() if isinstance(value, Tensor)
        }
        return replace(result, **tensors)

    def __str__(self) -> str:
        return f"{self.engine}-{self.device}"


DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
REFERENCE = Run("reference", "cpu")
#: Every engine but the reference on every device where it can run here.
FAST = [
    Run(name, device)
    for device in DEVICES
    for name, engine in ENGINES.items()
    if name != "reference" and engine.available(device)[0]
    # Under Triton's interpreter real features take minutes: test_triton_engine.py has smaller ones.
    if (name, device) != ("triton", "cpu")
]


def assert_equivalent(
    run: Run, activations: Tensor, gradients: Tensor, config: CFCAMConfig, size: tuple[int, int] = (64, 48)
) -> dict[str, float]:
    """The contract between an engine and the reference; returns the largest differences.

    Labels are equal except where a near tie excuses it, which is counted and printed.
    """
    fast = run.explain(activations, gradients, size, config)
    plain = REFERENCE.explain(activations, gradients, size, config)
    clusters, expected = clusters_of(fast), clusters_of(plain)
    differ = (clusters.labels != expected.labels).any(1)
    for image in differ.nonzero().flatten().tolist():
        ties = near_ties(activations[image].numpy(), float(expected.eps[image]), config)
        print(f"image {image}: labels differ, {ties} distances within {TIE} of eps")
        assert ties > 0, f"labels of image {image} differ and no distance lies at eps"
    same = ~differ
    torch.testing.assert_close(clusters.eps, expected.eps, rtol=TIE, atol=0)
    torch.testing.assert_close(clusters.n_clusters[same], expected.n_clusters[same])
    largest = plain.grid.flatten(-2).amax(-1).clamp_min(torch.finfo(torch.float32).tiny)
    scale = torch.maximum(largest, CANCELLED * uncancelled(activations, gradients))[..., None, None]
    differences = {
        "grid": float(((fast.grid - plain.grid).abs() / scale)[same].max()),
        "heatmap": float((fast.heatmap - plain.heatmap).abs()[same].max()),
        "label differences": int(differ.sum()),
    }
    assert differences["grid"] <= MAP, differences
    assert differences["heatmap"] <= MAP, differences
    assert torch.equal(fast.blank[same], plain.blank[same])
    assert torch.equal(plain.peak, upsampled_peak(plain.grid, size))
    # Engine `triton` interpolates in a kernel of its own, a GPU in another order than the CPU.
    rounding = 0 if run.device == "cpu" and run.engine != "triton" else PEAK
    torch.testing.assert_close(fast.peak, upsampled_peak(fast.grid, size), rtol=rounding, atol=0)
    return differences


def clusters_of(result: Explanation) -> Clusters:
    """The clusters of a result that has some."""
    assert result.labels is not None
    assert result.n_clusters is not None
    assert result.eps is not None
    return Clusters(result.labels, result.n_clusters, result.eps)


def upsampled_peak(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """The maximum of each map (…,h,w) at `size`, as the stored column `heatmap_max` holds it."""
    maps = grid.flatten(0, -3)[:, None]
    upsampled = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    return upsampled.amax((1, 2, 3)).view(grid.shape[:-2])


def uncancelled(activations: Tensor, gradients: Tensor) -> Tensor:
    """(B,) or (B,K): the largest value of the map if no two gradients cancelled each other."""
    weights = gradients.abs().mean((-2, -1))
    return torch.einsum("b...c,bcn->b...n", weights, activations.abs().flatten(2)).amax(-1)


def one_image(result: Explanation, index: int) -> dict[str, Tensor]:
    """The fields of one image of a batch."""
    return {
        name: getattr(result, name)[index]
        for name in ("heatmap", "grid", "peak", "labels", "eps", "n_clusters", "blank")
    }
