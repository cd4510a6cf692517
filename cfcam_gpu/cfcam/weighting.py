"""Channel weights from gradients and cluster labels, and the saliency map that they make of the activations.

Every function handles a whole batch and, on a GPU, reads no value back to the host.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cfcam_gpu.cfcam.clustering import Clusters
from cfcam_gpu.cfcam.filtering import filter_maps
from cfcam_gpu.config import DOMINANT, NOISE, CFCAMConfig

#: A function that computes the clusters' weights: (gradients (B,K,C,h,w), clusters, config) -> (B,K,slots)
#: float32, the mean of each cluster's filtered mean gradient map. There are as many slots as an image
#: can have clusters; a slot without a cluster holds 0.
Pool = Callable[[Tensor, Clusters, CFCAMConfig], Tensor]


def channel_weights(
    gradients: Tensor, clusters: Clusters, config: CFCAMConfig, pool: Pool | None = None
) -> Tensor:
    """Weights (B,K,C) float32 of the channels for each of K targets.

    A dominant channel's weight is the mean of its own gradient map. A clustered channel's weight is
    the mean of its cluster's filtered mean gradient map. Noise has weight 0.

    Args:
        gradients: (B,K,C,h,w) float32.
        clusters: of the same B images.
        config: its filter and its weighting, `mean` or `softmax`, are used.
        pool: computes the clusters' weights; None: `pooled_weights`.

    Source: published code, "hierarchical importance weighting".

    Example:
        >>> clusters = Clusters(torch.tensor([[0, 0, -1, -2]]), torch.tensor([1]), torch.ones(1))
        >>> gradients = torch.tensor([1.0, 3.0, 5.0, 7.0]).view(1, 1, 4, 1, 1)
        >>> channel_weights(gradients, clusters, CFCAMConfig())
        tensor([[[2., 2., 0., 7.]]])
    """
    labels = clusters.labels
    pooled = (pool or pooled_weights)(gradients, clusters, config)
    weights = gradients.mean((3, 4))
    if pooled.shape[2]:
        member = labels.clamp(0, pooled.shape[2] - 1)[:, None, :].expand_as(weights)
        weights = torch.where((labels >= 0)[:, None], pooled.gather(2, member), weights)
    return POOLED[config.weighting](weights, (labels == NOISE)[:, None])


def pooled_weights(gradients: Tensor, clusters: Clusters, config: CFCAMConfig) -> Tensor:
    """`Pool` in PyTorch, on any device."""
    slots = _cluster_slots(clusters)
    filtered = filter_maps(cluster_means(gradients, clusters.labels, slots).flatten(0, 2), config)
    return filtered.mean((1, 2)).view(*gradients.shape[:2], slots)


def _cluster_slots(clusters: Clusters) -> int:
    """Number of slots for clusters: the most that an image has on the CPU, elsewhere a bound, to read nothing back."""
    if clusters.labels.device.type == "cpu":
        return int(clusters.n_clusters.max())
    return most_clusters(clusters)


def most_clusters(clusters: Clusters) -> int:
    """The most clusters that an image can have, at least 1: `min_samples` is at least 2, so one for two channels."""
    return max(1, clusters.labels.shape[1] // 2)


def cluster_means(gradients: Tensor, labels: Tensor, slots: int) -> Tensor:
    """Mean gradient maps (B,K,slots,h,w) of the clusters; zeros in slots without a cluster.

    Args:
        gradients: (B,K,C,h,w) float32.
        labels: (B,C) int64.
        slots: number of clusters to make room for.

    Example:
        >>> cluster_means(torch.tensor([1.0, 3.0, 5.0]).view(1, 1, 3, 1, 1), torch.tensor([[0, 0, 1]]), 2).flatten()
        tensor([2., 5.])
    """
    b, k, c, h, w = gradients.shape
    # A product with the membership matrix: scattered additions differ from run to run on a GPU.
    member = (labels[:, None, :] == torch.arange(slots, device=labels.device)[:, None]).to(gradients.dtype)
    sums = torch.bmm(member, gradients.transpose(1, 2).reshape(b, c, k * h * w))
    means = sums / member.sum(2, keepdim=True).clamp_min(1)
    return means.view(b, slots, k, h, w).transpose(1, 2)


def _mean(weights: Tensor, noise: Tensor) -> Tensor:
    return weights.masked_fill(noise, 0)


def _softmax(weights: Tensor, noise: Tensor) -> Tensor:
    """Softmax over the channels that are not noise; all zero where every channel is noise."""
    return weights.masked_fill(noise, -torch.inf).softmax(2).masked_fill_(noise, 0)


#: `CFCAMConfig.weighting` -> (weights (B,K,C), which channels are noise (B,1,C) bool) -> weights (B,K,C).
#: `spatial` weights are not pooled and have a function of their own.
POOLED = {"mean": _mean, "softmax": _softmax}


def activation_map(activations: Tensor, weights: Tensor) -> Tensor:
    """The grid (B,K,h,w) float32: ReLU of the sum of the activations (B,C,h,w) with weights (B,K,C).

    Example:
        >>> activation_map(torch.tensor([1.0, 2.0]).view(1, 2, 1, 1), torch.tensor([[[3.0, -1.0], [0.0, -1.0]]]))
        tensor([[[[1.]],
        <BLANKLINE>
                 [[0.]]]])
    """
    b, _, h, w = activations.shape
    return torch.bmm(weights, activations.flatten(2)).relu_().view(b, -1, h, w)


def class_map(
    activations: Tensor,
    gradients: Tensor,
    clusters: Clusters,
    config: CFCAMConfig,
    pool: Pool | None = None,
    weighted_sum: Callable[[Tensor, Tensor], Tensor] = activation_map,
) -> Tensor:
    """The grid (B,K,h,w) float32 from activations, gradients and the clusters of the channels.

    Args:
        activations: (B,C,h,w) float32.
        gradients: (B,K,C,h,w) float32.
        clusters: of the same B images.
        config: its filter and weighting are used.
        pool: as for `channel_weights`.
        weighted_sum: what computes `activation_map`.

    Example:
        >>> clusters = Clusters(torch.tensor([[0, 0, -1, -2]]), torch.tensor([1]), torch.ones(1))
        >>> activations = torch.tensor([0.0, 0.0, 1.0, 9.0]).view(1, 4, 1, 1)
        >>> gradients = torch.tensor([1.0, 3.0, 5.0, 7.0]).view(1, 1, 4, 1, 1)
        >>> class_map(activations, gradients, clusters, CFCAMConfig())
        tensor([[[[63.]]]])
    """
    if config.weighting == "spatial":
        weights = spatial_weights(gradients, clusters, config)
        return (weights * activations[:, None]).sum(2).relu_()
    return weighted_sum(activations, channel_weights(gradients, clusters, config, pool))


def spatial_weights(gradients: Tensor, clusters: Clusters, config: CFCAMConfig) -> Tensor:
    """Weights (B,K,C,h,w) float32, not negative, one for every cell.

    A dominant channel's weights are its own gradient map, filtered. A clustered channel's weights
    are its cluster's mean gradient map, filtered. Noise has weight 0. The positive part is taken
    after the filter.

    Source: LayerCAM (Jiang et al. 2021), which takes the positive part of the unfiltered gradients.

    Example:
        >>> clusters = Clusters(torch.tensor([[0, 0, -2]]), torch.tensor([1]), torch.ones(1))
        >>> gradients = torch.tensor([[1.0, -2.0], [3.0, -4.0], [-7.0, 2.0]]).view(1, 1, 3, 1, 2)
        >>> spatial_weights(gradients, clusters, CFCAMConfig(filter="none")).view(3, 2)
        tensor([[2., 0.],
                [2., 0.],
                [0., 2.]])
    """
    labels, slots = clusters.labels, _cluster_slots(clusters)
    dominant = (labels == DOMINANT)[:, None].expand(gradients.shape[:3])
    weights = _filtered_where(dominant, gradients, config)
    if slots:
        means = cluster_means(gradients, labels, slots)
        filtered = filter_maps(means.flatten(0, 2), config).view_as(means)
        member = labels.clamp(0, slots - 1)[:, None, :, None, None].expand_as(gradients)
        weights = torch.where((labels >= 0)[:, None, :, None, None], filtered.gather(2, member), weights)
    return weights.masked_fill((labels == NOISE)[:, None, :, None, None], 0).relu_()


def _filtered_where(mask: Tensor, maps: Tensor, config: CFCAMConfig) -> Tensor:
    """The maps (…,h,w) with those in the mask (…) filtered."""
    if maps.device.type != "cpu":  # indexing with the mask would wait for the device
        filtered = filter_maps(maps.flatten(0, -3), config).view_as(maps)
        return torch.where(mask[..., None, None], filtered, maps)
    chosen = maps.clone()
    chosen[mask] = filter_maps(maps[mask], config)
    return chosen
