"""The check before every measurement: an engine whose labels or maps differ from the reference is not timed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cfcam_gpu import CFCAMConfig, Explanation, explain_activations
from cfcam_gpu.capture import capture, choose_layer, find_layer
from cfcam_gpu.cfcam.reference import is_dominant, pairwise_distances
from cfcam_gpu.config import EPS_SLACK

#: Largest difference of heatmap and grid (relative to its maximum) from the reference: float32 sums over 2,048
#: channels.
MAP_TOLERANCE = 1e-4
#: Labels may differ in an image with a distance this close to eps (relative difference): float32 rounding.
TIE = 1e-6

#: Heatmaps of a model in reduced precision count as the same if for every image the mean absolute difference
#: (heatmaps are in [0, 1]) is at most the first, and the correlation at least the second.
MEAN_TOLERANCE = 0.02
CORRELATION = 0.99


def check_engine(
    model: nn.Module, layer: str | None, images: Tensor, config: CFCAMConfig, engine: str
) -> dict[str, Any]:
    """Compares an engine with the reference on the features of a model's layer.

    Args:
        layer: None: the layer that `CFCAM` chooses.

    Raises:
        SystemExit: they differ by more than the tolerances.
    """
    target_layer = choose_layer(model, images) if layer is None else find_layer(model, layer)
    captured = capture(model, target_layer, images)
    size = (images.shape[2], images.shape[3])
    return required(compare(captured.activations, captured.gradients, size, config, engine))


def compare(
    activations: Tensor, gradients: Tensor, size: tuple[int, int], config: CFCAMConfig, engine: str
) -> dict[str, Any]:
    """Compares an engine with the reference on activations (B, C, h, w) and gradients (B, [K,] C, h, w).

    Returns:
        `engine`: its name; `images`: their number; `other_labels`: images whose labels differ, and
        `other_labels_at_a_near_tie`: those of them with a distance within `TIE` of eps. Of the images with equal
        labels the largest difference of `eps` (relative), `grid` (relative to its maximum) and `heatmap`; None if
        there are no such images.
    """
    fast, plain = (
        explain_activations(activations, gradients, size, config, name, on_invalid="flag")
        for name in (engine, "reference")
    )
    # CF-CAM has clusters.
    assert fast.labels is not None
    assert plain.labels is not None
    assert fast.eps is not None
    assert plain.eps is not None
    differ = (fast.labels != plain.labels).any(1)
    ties = [
        near_ties(activations[i].float().cpu().numpy(), float(plain.eps[i]), config)
        for i in differ.nonzero().flatten().tolist()
    ]
    peak = plain.grid.flatten(-2).amax(-1).clamp_min(torch.finfo(torch.float32).tiny)[..., None, None]
    return {
        "engine": fast.engine,
        "images": len(activations),
        "other_labels": int(differ.sum()),
        "other_labels_at_a_near_tie": sum(pairs > 0 for pairs in ties),
        "eps": _largest((fast.eps - plain.eps).abs() / plain.eps, ~differ),
        "grid": _largest((fast.grid - plain.grid).abs() / peak, ~differ),
        "heatmap": _largest((fast.heatmap - plain.heatmap).abs(), ~differ),
    }


def _largest(differences: Tensor, images: Tensor) -> float | None:
    return float(differences[images].max()) if bool(images.any()) else None


def near_ties(activations: np.ndarray, eps: float, config: CFCAMConfig) -> int:
    """Number of pairs of clustered channels of one image (C, h, w) with a distance within `TIE` of DBSCAN's radius."""
    features = activations.reshape(len(activations), -1).astype(np.float64)
    distances = pairwise_distances(features[~is_dominant(features, config)])
    return int((np.abs(distances / (eps * (1 + EPS_SLACK)) - 1) <= TIE).sum()) // 2


def required(comparison: Mapping[str, Any]) -> dict[str, Any]:
    """The result of `compare`, if it is within the tolerances.

    Raises:
        SystemExit: labels differ without a near tie, a difference is above its tolerance, or no image was compared.
    """
    limits = {"eps": TIE, "grid": MAP_TOLERANCE, "heatmap": MAP_TOLERANCE}
    within = all(comparison[name] is not None and comparison[name] <= limit for name, limit in limits.items())
    if not within or comparison["other_labels"] > comparison["other_labels_at_a_near_tie"]:
        raise SystemExit(f"equivalence check failed, nothing is timed: {dict(comparison)}")
    return dict(comparison)


def closeness(result: Explanation, plain: Explanation) -> dict[str, Any]:
    """How far heatmaps (B, H, W) of a model in reduced precision are from those of the same model in float32.

    `mean` and `correlation` are those of the worst image; the correlation of a blank or constant map counts as 0.
    """
    assert result.labels is not None
    assert plain.labels is not None
    difference = (result.heatmap - plain.heatmap).abs().flatten(1)
    correlations = [
        correlation(a, b) or 0.0 for a, b in zip(result.heatmap.cpu(), plain.heatmap.cpu(), strict=True)
    ]
    figures = {
        "mean": round(float(difference.mean(1).max()), 6),
        "largest": round(float(difference.max()), 6),
        "correlation": round(min(correlations), 6),
        "other_labels": round(float((result.labels != plain.labels).float().mean()), 6),
    }
    return {
        **figures,
        "within": figures["mean"] <= MEAN_TOLERANCE and figures["correlation"] >= CORRELATION,
    }


def correlation(first: Tensor, second: Tensor) -> float | None:
    """Pearson correlation of two maps (H, W) on the CPU; None if one of them is constant, such as a blank map.

    Example:
        >>> round(correlation(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])), 6)
        -1.0
    """
    a, b = (map_.flatten().double().numpy() for map_ in (first, second))
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else None
