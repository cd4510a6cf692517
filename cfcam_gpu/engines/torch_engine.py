"""Engine `torch`: the batched steps of `cfcam_gpu.cfcam` in PyTorch, on any device."""

from __future__ import annotations

from torch import Tensor

from cfcam_gpu.cfcam.clustering import Scan, cluster_channels, scan_in_chunks
from cfcam_gpu.cfcam.maps import Maps, maps_of
from cfcam_gpu.cfcam.weighting import class_map
from cfcam_gpu.config import CFCAMConfig


def run(
    activations: Tensor,
    gradients: Tensor,
    size: tuple[int, int],
    config: CFCAMConfig,
    scan: Scan = scan_in_chunks,
) -> Maps:
    """See `Engine.run`; other engines pass their own `scan`, which clusters the channels.

    Example:
        >>> import torch
        >>> activations = torch.tensor([1.0, 2.0, 9.0]).view(1, 3, 1, 1)
        >>> maps = run(activations, torch.ones(1, 1, 3, 1, 1), (2, 2), CFCAMConfig())
        >>> maps.clusters.labels, maps.peak  # one dominant channel, two that are a cluster
        (tensor([[ 0,  0, -2]]), tensor([[12.]]))
    """
    clusters = cluster_channels(activations, config, scan)
    return maps_of(class_map(activations, gradients, clusters, config), size, clusters)


def available(_device_type: str) -> tuple[bool, str]:
    """See `Engine.available`."""
    return True, "runs on any device"
