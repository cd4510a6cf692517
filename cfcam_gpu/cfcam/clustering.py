"""Clustering of a layer's channels: dominant channels, eps from a percentile, DBSCAN; for a whole batch.

Every function handles all images at once. Shapes never depend on the data, and on a GPU no value is
read back to the host. `cfcam_gpu.cfcam.reference` has the same mathematics for one image.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cfcam_gpu._utils.precision import widest, widest_dtype
from cfcam_gpu.config import DOMINANT, EPS_FLOOR, EPS_SLACK, NOISE, CFCAMConfig

#: Memory for the distances of the images that are clustered together, by device type. In bytes.
CHUNK_BYTES = {"cpu": 64 * 2**20, "cuda": 1024 * 2**20}

#: Memory for the differences of the rows whose distances are computed together, in `distances_by_blocks`. In bytes.
_DIFFERENCE_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Clusters:
    """The clusters of the channels of B images.

    Attributes:
        labels: (B,C) int64: cluster 0, 1, …; -1 noise; -2 dominant.
        n_clusters: (B,) int64.
        eps: (B,) float64 (float32 on devices without it), DBSCAN's eps, in units of the activations.
    """

    labels: Tensor
    n_clusters: Tensor
    eps: Tensor


#: A function that clusters the channels which are not dominant.
#:
#: (features (B,N,D) float32, valid (B,N) bool, config) -> labels (B,N) int64 with noise -1,
#: n_clusters (B,) int64, eps (B,) float64. An image with fewer such channels than N has rows that are
#: not valid; their labels are ignored.
Scan = Callable[[Tensor, Tensor, CFCAMConfig], tuple[Tensor, Tensor, Tensor]]


def cluster_channels(activations: Tensor, config: CFCAMConfig, scan: Scan) -> Clusters:
    """Clusters the channels of each image.

    Args:
        activations: (B,C,h,w), any floating dtype; computed in float32.
        config: its `dominant_percentile`, `eps_percentile` and `min_samples_fraction` are used.
        scan: clusters the channels that are not dominant, for example `scan_in_chunks`.

    Source: published code, "hierarchical clustering"; DBSCAN as scikit-learn defines it.

    Example:
        >>> activations = torch.tensor([0.0, 0.0, 1.0, 9.0]).view(1, 4, 1, 1)
        >>> cluster_channels(activations, CFCAMConfig(), scan_in_chunks).labels
        tensor([[ 0,  0, -1, -2]])
    """
    features = activations.flatten(2).float()
    dominant = dominant_channels(features, config.dominant_percentile)
    n = most_clustered(features.shape[1], config.dominant_percentile)
    labels = torch.full_like(dominant, DOMINANT, dtype=torch.int64)
    if n == 0:
        none = labels.new_zeros(len(labels))
        return Clusters(labels, none, torch.full_like(none, EPS_FLOOR, dtype=widest_dtype(none.device)))
    # The channels that are not dominant come first, in their own order, so that all images share one shape.
    order = torch.sort(dominant.byte(), dim=1, stable=True).indices[:, :n]
    outside = dominant.gather(1, order)
    rows = _rows(features, order)
    row_labels, n_clusters, eps = scan(rows, ~outside, config)
    labels.scatter_(1, order, row_labels.masked_fill(outside, DOMINANT))
    return Clusters(labels, n_clusters, eps)


def _rows(features: Tensor, order: Tensor) -> Tensor:
    """The rows (B,N,D) of features (B,C,D) that order (B,N) names."""
    if features.device.type == "cpu":  # where `gather` takes each value alone, ten times as long
        return features[torch.arange(len(order))[:, None], order]
    return features.gather(1, order[..., None].expand(-1, -1, features.shape[2]))


def dominant_channels(features: Tensor, percentile: float | None) -> Tensor:
    """(B,C) bool: the channels of features (B,C,D) whose L2 norm reaches the percentile of the image's norms.

    Example:
        >>> dominant_channels(torch.tensor([[[1.0], [2.0], [9.0]]]), percentile=75)
        tensor([[False, False,  True]])
    """
    if percentile is None:
        return torch.zeros(features.shape[:2], dtype=torch.bool, device=features.device)
    wide = widest_dtype(features.device)
    # Image by image in the CPU's memory: the copy in float64 of all of them takes longer to allocate than to read.
    parts = features.split(1) if features.device.type == "cpu" else (features,)
    found = [torch.linalg.vector_norm(part, dim=2, dtype=wide) for part in parts]
    norms = torch.cat(found) if len(found) > 1 else found[0]
    low, fraction = divmod(percentile / 100 * (norms.shape[1] - 1), 1.0)
    highest = norms.topk(norms.shape[1] - int(low), dim=1).values
    below, above = highest[:, -1], highest[:, -2:][:, 0]  # the same where the percentile is the largest norm
    threshold = torch.lerp(below, above, fraction)
    return norms >= (threshold * (1 - EPS_SLACK))[:, None]


def most_clustered(channels: int, percentile: float | None) -> int:
    """The largest number of channels that can lie below the percentile of their norms.

    Example:
        >>> most_clustered(2048, 75), most_clustered(2048, None)
        (1536, 2048)
    """
    return channels if percentile is None else math.ceil(percentile / 100 * (channels - 1))


def scan_in_chunks(features: Tensor, valid: Tensor, config: CFCAMConfig) -> tuple[Tensor, Tensor, Tensor]:
    """`Scan` in PyTorch, on any device, for as many images at once as `CHUNK_BYTES` holds distances of.

    Distances are computed by direct differencing: the Gram expansion |a|² - 2ab + |b|² loses small ones.

    Example:
        >>> features, valid = torch.tensor([[[0.0], [0.0], [1.0]]]), torch.ones(1, 3, dtype=torch.bool)
        >>> labels, n_clusters, eps = scan_in_chunks(features, valid, CFCAMConfig())
        >>> labels, n_clusters
        (tensor([[ 0,  0, -1]]), tensor([1]))
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
    """Euclidean distances (B,N,N) float32 of the rows of features (B,N,D), infinite where not valid (B,N).

    Example:
        >>> pairwise_distances(torch.tensor([[[0.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]]))
        tensor([[[0., 3., inf],
                 [3., 0., inf],
                 [inf, inf, inf]]])
    """
    distances = _DISTANCES.get(features.device.type, distances_by_blocks)(features)
    distances.masked_fill_(~valid[:, :, None], math.inf)
    return distances.masked_fill_(~valid[:, None, :], math.inf)


def distances_by_pairs(features: Tensor) -> Tensor:
    """Distances (B,N,N) of the rows of features (B,N,D), one pair after the other. On CUDA that is a block a pair.

    Example:
        >>> distances_by_pairs(torch.tensor([[[0.0], [3.0]]]))
        tensor([[[0., 3.],
                 [3., 0.]]])
    """
    return torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")


def distances_by_blocks(features: Tensor) -> Tensor:
    """`distances_by_pairs` by two operations for a block of rows: the differences, and their norms.

    The pairs above the diagonal are computed, and mirrored. All sums run over the same places in the same order, so
    that equal pairs have equal distances, and equal rows the distance 0.

    Example:
        >>> distances_by_blocks(torch.tensor([[[0.0], [3.0]]]))
        tensor([[[0., 3.],
                 [3., 0.]]])
    """
    b, n, d = features.shape
    columns = features.transpose(1, 2).contiguous()  # a sum over D then reads neighbouring values
    distances = features.new_empty(b, n, n)
    rows = max(1, _DIFFERENCE_BYTES // max(1, columns.element_size() * b * n * d))
    for start in range(0, n, rows):
        end = start + rows
        differences = columns[:, :, start:end, None] - columns[:, :, None, start:]
        block = torch.linalg.vector_norm(differences, dim=1)
        distances[:, start:end, start:] = block
        distances[:, start:, start:end] = block.mT
    return distances


#: How distances are computed, by device type; other types take blocks of rows.
_DISTANCES: dict[str, Callable[[Tensor], Tensor]] = {"cpu": distances_by_pairs}


def min_samples(counts: Tensor, config: CFCAMConfig) -> Tensor:
    """DBSCAN's min_samples (B,) int64 for counts (B,) int64 of channels: `CFCAMConfig.min_samples`, batched.

    Example:
        >>> min_samples(torch.tensor([5, 1536]), CFCAMConfig())
        tensor([ 2, 76])
    """
    return (config.min_samples_fraction * widest(counts)).long().clamp_min(2)


def distance_percentile(distances: Tensor, counts: Tensor, percentile: float) -> Tensor:
    """eps (B,) float64: the percentile of each image's off-diagonal distances, at least `EPS_FLOOR`.

    The N channels have n = N(N-1) off-diagonal distances, each pair's twice. NumPy interpolates
    linearly between the entries around position p·(n-1); as every pair stands there twice, these
    are the pairs of rank ⌊·⌋ // 2: two order statistics.

    Args:
        distances: (B,M,M) float32, symmetric, infinite outside an image's first N = counts rows.
        counts: (B,) int64.
        percentile: 0 to 100.

    Example:
        >>> distances = torch.tensor([[[0.0, 1.0, 5.0], [1.0, 0.0, 4.0], [5.0, 4.0, 0.0]]])
        >>> distance_percentile(distances, torch.tensor([3]), 50)
        tensor([4.], dtype=torch.float64)
    """
    n = distances.shape[1]
    if n < 2:
        return torch.full(counts.shape, EPS_FLOOR, dtype=widest_dtype(counts.device), device=distances.device)
    # A CUDA graph may go on reading positions that a cache drops: only the CPU's are kept.
    positions = _kept_triangle(n) if distances.device.type == "cpu" else _upper_triangle(n, distances.device)
    pairs = distances.flatten(1).index_select(1, positions)
    entries = widest(counts * (counts - 1))
    position = (entries - 1).clamp_min(0) * (percentile / 100)
    low = position.floor()
    high = torch.minimum(low + 1, (entries - 1).clamp_min(0))
    ranks = torch.stack([low, high], dim=1).long() // 2
    select = _SELECTION.get(pairs.device.type, select_by_bisection)
    below, above = widest(select(pairs, ranks)).unbind(1)
    eps = torch.lerp(below, above, position - low)
    return torch.where(counts < 2, EPS_FLOOR, eps).clamp_min(EPS_FLOOR)


@functools.lru_cache(maxsize=8)
def _kept_triangle(n: int) -> Tensor:
    return _upper_triangle(n, torch.device("cpu"))


def _upper_triangle(n: int, device: torch.device) -> Tensor:
    """Positions of the pairs i < j in a flattened n×n matrix, int32 (n·n stays far below 2³¹)."""
    rows, columns = torch.triu_indices(n, n, offset=1, device=device)
    return (rows * n + columns).int()


def select_by_partition(values: Tensor, ranks: Tensor) -> Tensor:
    """Order statistics (B,R) at ranks (B,R) of values (B,M) in the CPU's memory, by NumPy's introselect.

    Example:
        >>> select_by_partition(torch.tensor([[7.0, 1.0, 4.0]]), torch.tensor([[0, 1]]))
        tensor([[1., 4.]])
    """
    kth = np.unique(ranks.numpy())
    return torch.from_numpy(np.partition(values.numpy(), kth, axis=1)).gather(1, ranks)


def select_by_bisection(values: Tensor, ranks: Tensor) -> Tensor:
    """Order statistics (B,R) at ranks (B,R) of non-negative float32 values (B,M), without sorting.

    Non-negative floats have the same order as their bit patterns. The range of patterns is halved
    31 times, until one is left: the lowest with more than `rank` values at or below it. The number
    of passes is fixed and no value is read back.

    Example:
        >>> select_by_bisection(torch.tensor([[7.0, 1.0, 4.0]]), torch.tensor([[0, 1]]))
        tensor([[1., 4.]])
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


#: How order statistics are selected, by device type; other types bisect.
_SELECTION: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"cpu": select_by_partition}


def dbscan(distances: Tensor, eps: Tensor, minimum: Tensor) -> tuple[Tensor, Tensor]:
    """DBSCAN of each image's points, with the labels that scikit-learn gives.

    A point is core if at least `minimum` points, itself included, lie within eps of it. The
    clusters are the connected components of the core points, numbered by their lowest core index.
    Any other point joins the lowest-numbered cluster that has a core point within eps, or is noise.

    Args:
        distances: (B,N,N) float32, infinite in rows that hold no point.
        eps: (B,) float64.
        minimum: (B,) int64.

    Returns:
        labels (B,N) int64, noise -1, and the number of clusters (B,) int64.

    Example:
        >>> distances = torch.tensor([[[0.0, 1.0, 9.0], [1.0, 0.0, 9.0], [9.0, 9.0, 0.0]]])
        >>> dbscan(distances, eps=torch.tensor([2.0]), minimum=torch.tensor([2]))
        (tensor([[ 0,  0, -1]]), tensor([1]))
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


def connected_components(
    neighbours: Tensor, core: Tensor, *, end_early: bool | None = None
) -> tuple[Tensor, Tensor]:
    """The lowest core index of each core point's component, and of the components next to every point.

    Rounds of hooking and shortcutting: each tree hooks its root to the smallest root next to it,
    then all paths are compressed. A root that stays the smallest among its neighbours for two
    rounds has absorbed a neighbour, so the number of trees in a component halves at least every two
    rounds and 2·log2(N) rounds always suffice. On the CPU, where reading a value costs nothing, the
    loop ends when nothing changes any more, after 2 to 3 rounds on real features.

    Args:
        neighbours: (B,N,N) bool, symmetric.
        core: (B,N) bool.
        end_early: whether to read values to end when nothing changes; None: on the CPU only.

    Returns:
        nearest (B,N) int64: the smallest component among a point's core neighbours, N if it has none;
        root (B,N) int64: the component of each core point, N elsewhere.

    Example:
        >>> neighbours = torch.eye(3, dtype=torch.bool)[None]
        >>> neighbours[0, 1, 2] = neighbours[0, 2, 1] = True
        >>> nearest, root = connected_components(neighbours, core=torch.tensor([[False, True, True]]))
        >>> root
        tensor([[3, 1, 1]])
    """
    n = core.shape[1]
    end_early = core.device.type == "cpu" if end_early is None else end_early
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
        if end_early and torch.equal(joined, root):
            break
        root = joined
    return nearest, root
