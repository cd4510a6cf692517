"""Engine `cuml`: as `torch`, but cuML's DBSCAN clusters the channels, on CuPy views of PyTorch's memory.

cuML takes one data set a call and waits for the GPU several times in each (cuml issue 4600), so
this engine goes image by image. It is here to compare with, and for those who trust cuML most.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cfcam_gpu._utils.optional import importable
from cfcam_gpu.cfcam.clustering import distance_percentile, pairwise_distances
from cfcam_gpu.cfcam.maps import Maps
from cfcam_gpu.config import EPS_FLOOR, EPS_SLACK, NOISE, CFCAMConfig
from cfcam_gpu.engines import torch_engine


def run(activations: Tensor, gradients: Tensor, size: tuple[int, int], config: CFCAMConfig) -> Maps:
    """See `Engine.run`."""
    return torch_engine.run(activations, gradients, size, config, scan_cuml)


def available(device_type: str) -> tuple[bool, str]:
    """See `Engine.available`."""
    remedy = "pip install 'cfcam-gpu[cuda12]' or 'cfcam-gpu[cuda13]', by the CUDA version"
    if device_type != "cuda":
        return False, f"needs an NVIDIA GPU; there, {remedy}"
    ok, reason = importable("cupy", remedy)
    return importable("cuml", remedy) if ok else (ok, reason)


def scan_cuml(features: Tensor, valid: Tensor, config: CFCAMConfig) -> tuple[Tensor, Tensor, Tensor]:
    """`clustering.Scan` by cuML, one image after the other; eps is computed as in engine `torch`."""
    labels = torch.full_like(valid, NOISE, dtype=torch.int64)
    eps = torch.full((len(valid),), EPS_FLOOR, dtype=torch.float64, device=valid.device)
    for index, n in enumerate(valid.sum(1).tolist()):
        if n >= 2:
            rows = features[index, :n].contiguous()
            distances = pairwise_distances(rows[None], valid[index, None, :n])
            count = valid.new_full((1,), n, dtype=torch.int64)
            eps[index] = distance_percentile(distances, count, config.eps_percentile)[0]
            radius = float(eps[index]) * (1 + EPS_SLACK)
            labels[index, :n] = _dbscan_labels(rows, radius, config.min_samples(n))
    return labels, labels.amax(1) + 1, eps


def _dbscan_labels(rows: Tensor, eps: float, min_samples: int) -> Tensor:
    """Labels (N,) int64 of the rows (N,D) float32 on a GPU, clusters numbered by their lowest core index."""
    import cupy
    from cuml.cluster import DBSCAN

    model = DBSCAN(
        eps=eps,
        min_samples=min_samples,
        metric="euclidean",
        algorithm="brute",
        output_type="cupy",
        calc_core_sample_indices=True,
    )
    model.fit(cupy.from_dlpack(rows))
    labels, core = (_to_torch(array, rows) for array in (model.labels_, model.core_sample_indices_))
    return renumbered(labels, core)


def _to_torch(array: Any, like: Tensor) -> Tensor:
    """A CuPy array as an int64 tensor on the device of `like`, without a copy where the dtype allows."""
    return torch.from_dlpack(array).to(device=like.device, dtype=torch.int64)


def renumbered(labels: Tensor, core: Tensor) -> Tensor:
    """Labels (N,) with the clusters numbered by their lowest core index; noise stays -1.

    cuML does not promise an order of its clusters.

    Args:
        labels: (N,) int64.
        core: indices of the core points, in any order.

    Example:
        >>> renumbered(torch.tensor([1, 1, -1, 0]), core=torch.tensor([3, 0, 1]))
        tensor([ 0,  0, -1,  1])
    """
    clusters = int(labels.max()) + 1
    if clusters <= 0:
        return labels
    lowest = torch.full((clusters,), len(labels), device=labels.device)
    lowest = lowest.scatter_reduce(0, labels[core], core, "amin")
    number = torch.empty_like(lowest)
    number[lowest.argsort()] = torch.arange(clusters, device=labels.device)
    return torch.where(labels >= 0, number[labels.clamp_min(0)], NOISE)
