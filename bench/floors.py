"""The fewest operations and bytes that each stage of an explanation needs, by formula.

bench/README.md derives the formulas. All counts are for one image and one target.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cfcam_gpu import CFCAMConfig
from cfcam_gpu.capture import capture
from cfcam_gpu.capture.layers import TargetLayer
from cfcam_gpu.cfcam.clustering import Clusters
from cfcam_gpu.config import DOMINANT


@dataclass(frozen=True)
class Count:
    """Floating-point operations and bytes of a stage.

    Attributes:
        model: whether the operations are in the model's precision; else in float32.
    """

    flops: float
    bytes: float
    model: bool = False

    def floor_ms(self, peaks: Mapping[str, Any]) -> float:
        """Milliseconds at the machine's peaks: those of the operations or of the bytes, whichever are more."""
        gflops: float = peaks["model_gflops" if self.model else "float32_gflops"]
        return 1e-6 * max(self.flops / gflops, self.bytes / float(peaks["copy_gbytes"]))


def model_counts(model: nn.Module, layer: TargetLayer, image: Tensor, batch: int) -> dict[str, Count]:
    """Counts of the forward pass up to the layer, and of the head with its backward pass.

    Operations: those of convolutions and matrix products, which PyTorch counts from their shapes.
    Bytes: each parameter once per batch (the head's twice, since its backward pass reads them again), the image,
    and the layer's output once in each direction.
    """
    reached: list[int] = []
    before: set[nn.Parameter] = set()
    handles = [
        module.register_forward_hook(
            lambda m, *_: None if reached else before.update(m.parameters(recurse=False))
        )
        for module in model.modules()
    ]
    with FlopCounterMode(display=False) as counter:
        handles.append(
            layer.module.register_forward_hook(lambda *_: reached.append(counter.get_total_flops()))
        )
        try:
            output = capture(model, layer, image).activations
        finally:
            for handle in handles:
                handle.remove()
        total = counter.get_total_flops()
    body, head = (
        sum(p.numel() for p in model.parameters() if (p in before) == first) for first in (True, False)
    )
    size = image.element_size()
    return {
        "forward to the layer": Count(
            reached[-1], size * (body / batch + image.numel() + output.numel()), model=True
        ),
        "head and its backward": Count(
            total - reached[-1], size * (2 * head / batch + 2 * output.numel()), model=True
        ),
    }


def stage_counts(
    shape: torch.Size, size: Sequence[int], clusters: Clusters, config: CFCAMConfig, *, distances_stored: bool
) -> dict[str, Count]:
    """Counts of the stages after the model.

    Args:
        shape: (B, C, h, w) of the activations.
        size: (H, W) of the heatmaps.
        clusters: the clustering, for the numbers of clustered channels and of clusters.
        distances_stored: whether the engine stores the distances; else they are computed for the neighbours, once.
    """
    _, c, h, w = shape
    d, out = h * w, size[0] * size[1]
    n = int((clusters.labels != DOMINANT).sum(1).max())
    k = float(clusters.n_clusters.double().mean())
    pairs, adjacency = n * (n - 1) / 2, n * n / 8
    window = math.pi * config.radius(h, w) ** 2
    distances = Count(3 * d * pairs, 4 * (n * d + pairs * distances_stored))
    neighbours = (
        Count(pairs, 4 * pairs + adjacency)
        if distances_stored
        else Count(3 * d * pairs, 4 * n * d + adjacency)
    )
    return {
        "finite values": Count(2 * c * d, 4 * 2 * c * d),
        "dominance": Count(2 * c * d, 4 * (c * d + 2 * n * d)),
        "distances": distances,
        "percentile": Count(2 * pairs, 4 * pairs),
        "neighbours": neighbours,
        "search": Count(0, adjacency),
        "neighbours and search": neighbours,
        "means, filter, weights": Count(2 * c * d + 6 * k * d * window, 4 * c * d),
        "map": Count(2 * c * d, 4 * (c * d + d)),
        "upsampling": Count(9 * out, 12 * out),
    }
