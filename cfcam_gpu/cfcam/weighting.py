"""Channel weights from gradients and labels, and the map they make of the activations. Batched."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cfcam_gpu.cfcam.clustering import Clusters
from cfcam_gpu.cfcam.filtering import filter_maps
from cfcam_gpu.config import DOMINANT, NOISE, CFCAMConfig

#: Weight (B,K,slots) of each cluster: (gradients (B,K,C,h,w), clusters, config) -> the mean of its
#: filtered mean gradient map, zeros for clusters an image does not have.
Pool = Callable[[Tensor, Clusters, CFCAMConfig], Tensor]


def channel_weights(
    gradients: Tensor, clusters: Clusters, config: CFCAMConfig, pool: Pool | None = None
) -> Tensor:
    """Weights (B,K,C) float32 of the channels for each of K targets.

    A dominant channel's weight is the mean of its own gradient map, a clustered channel's the mean
    of its cluster's filtered mean gradient map, noise has none.

    Args:
        gradients: (B,K,C,h,w) float32.
        clusters: labels (B,C) as `cluster_channels` gives them.
        config: filter and weighting are used.
        pool: how the clusters' weights are computed; None: `pooled_weights`.

    Source: published code, "hierarchical importance weighting".
    """
    labels = clusters.labels
    pooled = (pool or pooled_weights)(gradients, clusters, config)
    weights = gradients.mean((3, 4))
    if pooled.shape[2]:
        member = labels.clamp(0, pooled.shape[2] - 1)[:, None, :].expand_as(weights)
        weights = torch.where((labels >= 0)[:, None], pooled.gather(2, member), weights)
    return POOLED[config.weighting](weights, (labels != NOISE)[:, None])


def pooled_weights(gradients: Tensor, clusters: Clusters, config: CFCAMConfig) -> Tensor:
    """`Pool` in PyTorch on any device."""
    slots = cluster_slots(clusters)
    filtered = filter_maps(cluster_means(gradients, clusters.labels, slots).flatten(0, 2), config)
    return filtered.mean((1, 2)).view(*gradients.shape[:2], slots)


def cluster_slots(clusters: Clusters) -> int:
    """Number of clusters to make room for: exact on the CPU, elsewhere a bound that reads nothing back."""
    if clusters.labels.device.type == "cpu":
        return int(clusters.n_clusters.max())
    return most_clusters(clusters)


def most_clusters(clusters: Clusters) -> int:
    """How many clusters there can be: min_samples is at least 2, which leaves one for every two channels."""
    return max(1, clusters.labels.shape[1] // 2)


def cluster_means(gradients: Tensor, labels: Tensor, slots: int) -> Tensor:
    """Mean gradient map (B,K,slots,h,w) of each cluster; zeros for clusters an image does not have."""
    b, k, c, h, w = gradients.shape
    # A product with the membership matrix, because scattered additions differ from run to run on a GPU.
    member = (labels[:, None, :] == torch.arange(slots, device=labels.device)[:, None]).float()
    sums = torch.bmm(member, gradients.transpose(1, 2).reshape(b, c, k * h * w))
    means = sums / member.sum(2, keepdim=True).clamp_min(1)
    return means.view(b, slots, k, h, w).transpose(1, 2)


def _mean(weights: Tensor, valid: Tensor) -> Tensor:
    return torch.where(valid, weights, 0)


def _softmax(weights: Tensor, valid: Tensor) -> Tensor:
    """Softmax over the channels that are not noise; all zero where there is none."""
    return torch.where(valid, weights.masked_fill(~valid, -torch.inf).softmax(2), 0)


#: What becomes of the pooled weights; `spatial` does not pool.
POOLED = {"mean": _mean, "softmax": _softmax}


def activation_map(activations: Tensor, weights: Tensor) -> Tensor:
    """The grid (B,K,h,w) float32: ReLU of the activations (B,C,h,w), summed with weights (B,K,C)."""
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
    """The grid (B,K,h,w) float32 of activations (B,C,h,w), gradients (B,K,C,h,w) and their clusters.

    Args:
        pool: as for `channel_weights`; weighted_sum: computes `activation_map`.
    """
    if config.weighting == "spatial":
        weights = spatial_weights(gradients, clusters, config)
        return (weights * activations[:, None]).sum(2).relu_()
    return weighted_sum(activations, channel_weights(gradients, clusters, config, pool))


def spatial_weights(gradients: Tensor, clusters: Clusters, config: CFCAMConfig) -> Tensor:
    """Weights (B,K,C,h,w) float32, not negative: each channel's, or its cluster's mean, gradient map, filtered.

    The positive part is taken after the filter, as LayerCAM (Jiang et al. 2021) takes it of the gradients.
    """
    labels, slots = clusters.labels, cluster_slots(clusters)
    dominant = (labels == DOMINANT)[:, None].expand(gradients.shape[:3])
    weights = _filtered_where(dominant, gradients, config)
    if slots:
        means = cluster_means(gradients, labels, slots)
        filtered = filter_maps(means.flatten(0, 2), config).view_as(means)
        member = labels.clamp(0, slots - 1)[:, None, :, None, None].expand_as(gradients)
        weights = torch.where((labels >= 0)[:, None, :, None, None], filtered.gather(2, member), weights)
    return torch.where((labels != NOISE)[:, None, :, None, None], weights, 0).relu_()


def _filtered_where(mask: Tensor, maps: Tensor, config: CFCAMConfig) -> Tensor:
    """The maps (…,h,w) with those in the mask (…) filtered."""
    if maps.device.type != "cpu":  # choosing would wait for the device
        filtered = filter_maps(maps.flatten(0, -3), config).view_as(maps)
        return torch.where(mask[..., None, None], filtered, maps)
    chosen = maps.clone()
    chosen[mask] = filter_maps(maps[mask], config)
    return chosen
