"""Channel clustering: dominant channels, percentile eps and DBSCAN for a whole batch.

Every function works on all images at once with shapes that do not depend on the data, and on a GPU
none of them reads a value back to the host. `reference.py` holds the same mathematics for one
image, with scikit-learn's DBSCAN.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cfcam_gpu.config import DOMINANT, EPS_FLOOR, EPS_SLACK, NOISE, CFCAMConfig

#: Distances of as many images as fit are held at once; the others wait. In bytes.
CHUNK_BYTES = {"cpu": 64 * 2**20, "cuda": 1024 * 2**20}


@dataclass(frozen=True)
class Clusters:
    """Labels (B,C) int64: cluster 0, 1, …; -1 noise; -2 dominant. n_clusters (B,) int64; eps (B,) float64."""

    labels: Tensor
    n_clusters: Tensor
    eps: Tensor


#: What scans the channels of a batch: (features (B,N,D) float32, valid (B,N) bool, config) ->
#: labels (B,N) int64 with noise -1, n_clusters (B,) int64, eps (B,) float64. Rows that are not
#: valid hold no channel; their labels are ignored.
Scan = Callable[[Tensor, Tensor, CFCAMConfig], tuple[Tensor, Tensor, Tensor]]


def cluster_channels(activations: Tensor, config: CFCAMConfig, scan: Scan) -> Clusters:
    """Cluster the channels of each image.

    Args:
        activations: (B,C,h,w), any floating dtype; computed in float32.
        config: dominant_percentile, eps_percentile and min_samples_fraction are used.
        scan: how the channels that are not dominant are clustered.

    Source: published code, "hierarchical clustering"; DBSCAN as scikit-learn defines it.
    """
    features = activations.flatten(2).float()
    dominant = dominant_channels(features, config.dominant_percentile)
    n = _most_clustered(features.shape[1], config.dominant_percentile)
    labels = torch.full_like(dominant, DOMINANT, dtype=torch.int64)
    if n == 0:
        none = labels.new_zeros(len(labels))
        return Clusters(labels, none, torch.full_like(none, EPS_FLOOR, dtype=torch.float64))
    # The clustered channels first, in their own order, so that all images share one shape.
    order = torch.sort(dominant.byte(), dim=1, stable=True).indices[:, :n]
    valid = ~dominant.gather(1, order)
    chosen = features.gather(1, order[..., None].expand(-1, -1, features.shape[2]))
    found, n_clusters, eps = scan(chosen, valid, config)
    labels.scatter_(1, order, torch.where(valid, found, DOMINANT))
    return Clusters(labels, n_clusters, eps)


def dominant_channels(features: Tensor, percentile: float | None) -> Tensor:
    """(B,C) bool: the channels of features (B,C,D) whose L2 norm reaches the image's percentile."""
    if percentile is None:
        return torch.zeros(features.shape[:2], dtype=torch.bool, device=features.device)
    norms = torch.linalg.vector_norm(features.double(), dim=2)
    ordered = norms.sort(dim=1).values
    low, fraction = divmod(percentile / 100 * (norms.shape[1] - 1), 1.0)
    below = ordered[:, int(low)]
    above = ordered[:, min(int(low) + 1, norms.shape[1] - 1)]
    threshold = torch.lerp(below, above, fraction)
    return norms >= (threshold * (1 - EPS_SLACK))[:, None]


def _most_clustered(channels: int, percentile: float | None) -> int:
    """How many of the channels at most lie below the percentile of their norms."""
    return channels if percentile is None else math.ceil(percentile / 100 * (channels - 1))


def scan_in_chunks(features: Tensor, valid: Tensor, config: CFCAMConfig) -> tuple[Tensor, Tensor, Tensor]:
    """`Scan` in PyTorch on any device; the distances of as many images as fit are held at once.

    Distances are taken by direct differencing, since the Gram expansion loses small ones.
    """
    device = features.device.type
    per_image = 16 * features.shape[1] ** 2
    step = max(1, CHUNK_BYTES.get(device, CHUNK_BYTES["cuda"]) // per_image)
    parts = [_scan_chunk(f, v, config) for f, v in zip(features.split(step), valid.split(step), strict=True)]
    labels, n_clusters, eps = (torch.cat(column) for column in zip(*parts, strict=True))
    return labels, n_clusters, eps


def _scan_chunk(features: Tensor, valid: Tensor, config: CFCAMConfig) -> tuple[Tensor, Tensor, Tensor]:
    counts = valid.sum(1)
    distances = pairwise_distances(features, valid)
    eps = distance_percentile(distances, counts, config.eps_percentile)
    labels, n_clusters = dbscan(distances, eps, min_samples(counts, config))
    return labels, n_clusters, eps


def pairwise_distances(features: Tensor, valid: Tensor) -> Tensor:
    """Euclidean distances (B,N,N) float32 of the rows of features (B,N,D), infinite where not valid (B,N)."""
    distances = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
    distances.masked_fill_(~valid[:, :, None], math.inf)
    return distances.masked_fill_(~valid[:, None, :], math.inf)


def min_samples(counts: Tensor, config: CFCAMConfig) -> Tensor:
    """max(2, int(fraction · N)) for N = counts (B,) int64."""
    return (config.min_samples_fraction * counts.double()).long().clamp_min(2)


def distance_percentile(distances: Tensor, counts: Tensor, percentile: float) -> Tensor:
    """eps (B,) float64: the percentile of the off-diagonal distances of each image, floor `EPS_FLOOR`.

    NumPy's linear interpolation over the n = N(N-1) off-diagonal entries, of which each pair gives
    two: the entries around position p·(n-1) are the pairs of rank ⌊·⌋ // 2, two order statistics.

    Args:
        distances: (B,M,M) float32, symmetric, infinite outside the N = counts valid rows.
        counts: (B,) int64.
        percentile: 0 to 100.
    """
    n = distances.shape[1]
    if n < 2:
        return torch.full(counts.shape, EPS_FLOOR, dtype=torch.float64, device=distances.device)
    pairs = distances.flatten(1).index_select(1, _upper_triangle(n, distances.device))
    entries = (counts * (counts - 1)).double()
    position = (entries - 1).clamp_min(0) * (percentile / 100)
    low = position.floor()
    high = torch.minimum(low + 1, (entries - 1).clamp_min(0))
    ranks = torch.stack([low, high], dim=1).long() // 2
    below, above = SELECTION.get(pairs.device.type, select_by_bisection)(pairs, ranks).double().unbind(1)
    eps = torch.lerp(below, above, position - low)
    return torch.where(counts < 2, EPS_FLOOR, eps).clamp_min(EPS_FLOOR)


@functools.lru_cache(maxsize=8)
def _upper_triangle(n: int, device: torch.device) -> Tensor:
    """Positions of the pairs i < j in a flattened n×n matrix, int32 (n·n stays far below 2³¹)."""
    rows, columns = torch.triu_indices(n, n, offset=1, device=device)
    return (rows * n + columns).int()


def select_by_partition(values: Tensor, ranks: Tensor) -> Tensor:
    """Order statistics (B,R) at ranks (B,R) of values (B,M) in the CPU's memory, by NumPy's introselect."""
    kth = np.unique(ranks.numpy())
    return torch.from_numpy(np.partition(values.numpy(), kth, axis=1)).gather(1, ranks)


def select_by_bisection(values: Tensor, ranks: Tensor) -> Tensor:
    """Order statistics (B,R) at ranks (B,R) of non-negative float32 values (B,M), without sorting.

    Non-negative floats order as their bit patterns do; 31 halvings of the range of patterns end at
    the pattern with more than `rank` values at or below it. A fixed number of passes, no value read back.
    """
    bits = values.view(torch.int32)
    low = torch.zeros_like(ranks, dtype=torch.int32)
    high = torch.full_like(low, 0x7F800000)  # infinity
    for _ in range(31):
        middle = low + (high - low) // 2
        at_or_below = torch.stack([(bits <= m[:, None]).sum(1) for m in middle.unbind(1)], dim=1)
        enough = at_or_below > ranks
        high = torch.where(enough, middle, high)
        low = torch.where(enough, low, middle + 1)
    return high.view(torch.float32)


#: How order statistics are selected, by device type; everything else bisects.
SELECTION: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"cpu": select_by_partition}


def dbscan(distances: Tensor, eps: Tensor, minimum: Tensor) -> tuple[Tensor, Tensor]:
    """DBSCAN of each image's points in scikit-learn's order.

    A point with at least `minimum` points (itself included) within eps is core. Clusters are the
    connected components of the core points, numbered by their lowest core index; another point
    joins the lowest-numbered cluster with a core point within eps, or is noise.

    Args:
        distances: (B,N,N) float32, infinite for rows that hold no point.
        eps: (B,) float64.
        minimum: (B,) int64.

    Returns:
        labels (B,N) int64, noise -1, and the number of clusters (B,) int64.
    """
    neighbours = distances <= (eps * (1 + EPS_SLACK)).float()[:, None, None]
    core = neighbours.sum(2, dtype=torch.int32) >= minimum[:, None]
    nearest_root, root = connected_components(neighbours, core)
    index = torch.arange(core.shape[1], device=core.device)
    is_root = core & (root == index)
    number = is_root.cumsum(1) - 1
    reached = nearest_root < core.shape[1]
    labels = torch.where(reached, number.gather(1, torch.where(reached, nearest_root, 0)), NOISE)
    return labels, is_root.sum(1)


def connected_components(neighbours: Tensor, core: Tensor, look: bool | None = None) -> tuple[Tensor, Tensor]:
    """Lowest core index of the component of each core point, and of those around every point.

    Rounds of hooking and shortcutting: each tree hooks its root to the smallest root next to it,
    then all paths are compressed. A root that is the smallest among its neighbours for two rounds
    running has absorbed a neighbour, so the number of trees in a component halves at least every
    two rounds and 2·log2(N) of them always suffice. Where looking at the data costs nothing the loop
    ends as soon as nothing changes (2 to 3 rounds on real features).

    Args:
        neighbours: (B,N,N) bool, symmetric.
        core: (B,N) bool.
        look: whether to look at the data to end early; None: on the CPU only.

    Returns:
        nearest (B,N) int64: the smallest component among a point's core neighbours, N if none;
        root (B,N) int64: the component of each core point, N elsewhere.
    """
    n = core.shape[1]
    look = core.device.type == "cpu" if look is None else look
    # int16 halves the memory traffic of the sweep over all pairs.
    small = torch.int16 if n < torch.iinfo(torch.int16).max else torch.int32
    index = torch.arange(n, device=core.device).expand(core.shape)
    root = torch.where(core, index, n)
    halvings = max(1, math.ceil(math.log2(n))) if n > 1 else 1
    nearest = root
    for _ in range(2 * halvings + 1):
        nearest = torch.where(neighbours, root.to(small)[:, None, :], n).amin(2).long()
        parent = torch.cat([index, torch.full_like(index[:, :1], n)], dim=1)
        parent = parent.scatter_reduce(1, root, torch.where(core, nearest, n), "amin")
        for _ in range(halvings):
            parent = parent.gather(1, parent)
        joined = torch.where(core, parent.gather(1, root), n)
        if look and torch.equal(joined, root):
            break
        root = joined
    return nearest, root
