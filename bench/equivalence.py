"""What stands before every measurement: the engine gives the reference's labels and maps, or nothing is timed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cfcam_gpu import CFCAMConfig, Explanation, explain_activations
from cfcam_gpu.capture import capture
from cfcam_gpu.capture.layers import choose_layer, find_layer
from cfcam_gpu.cfcam.reference import is_dominant, pairwise_distances
from cfcam_gpu.config import EPS_SLACK

#: Heatmap and grid (of its maximum), any engine against the reference: float32 sums over 2,048 channels.
MAP_TOLERANCE = 1e-4
#: Labels may differ in an image that has a distance this close to eps, relative: float32 rounding.
TIE = 1e-6

#: A model in reduced precision counts as giving the same heatmaps when each image's mean absolute
#: difference (heatmaps are in [0,1]) stays below the one and its correlation above the other.
MEAN_TOLERANCE = 0.02
CORRELATION = 0.99


def check_engine(
    model: nn.Module, layer: str | None, images: Tensor, config: CFCAMConfig, engine: str
) -> dict[str, Any]:
    """`compare` on the features of a model's layer (None: the automatic one), and stop if it is red."""
    where = choose_layer(model, images) if layer is None else find_layer(model, layer)
    captured = capture(model, where, images)
    size = (images.shape[2], images.shape[3])
    return required(compare(captured.activations, captured.gradients, size, config, engine))


def compare(
    activations: Tensor, gradients: Tensor, size: tuple[int, int], config: CFCAMConfig, engine: str
) -> dict[str, Any]:
    """An engine against the reference on activations (B,C,h,w) and gradients (B,K,C,h,w) or (B,C,h,w).

    Returns:
        the engine's name; images; how many have other labels, and how many of these lie at a near
        tie; among the images with equal labels the largest difference of eps (relative), grid (of
        its maximum) and heatmap.
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
        "other_labels_at_a_near_tie": sum(found > 0 for found in ties),
        "eps": _largest((fast.eps - plain.eps).abs() / plain.eps, ~differ),
        "grid": _largest((fast.grid - plain.grid).abs() / peak, ~differ),
        "heatmap": _largest((fast.heatmap - plain.heatmap).abs(), ~differ),
    }


def _largest(differences: Tensor, images: Tensor) -> float | None:
    return float(differences[images].max()) if bool(images.any()) else None


def near_ties(activations: np.ndarray, eps: float, config: CFCAMConfig) -> int:
    """Pairs of clustered channels of one image (C,h,w) whose distance lies within `TIE` of DBSCAN's radius."""
    features = activations.reshape(len(activations), -1).astype(np.float64)
    distances = pairwise_distances(features[~is_dominant(features, config)])
    return int((np.abs(distances / (eps * (1 + EPS_SLACK)) - 1) <= TIE).sum()) // 2


def required(seen: Mapping[str, Any]) -> dict[str, Any]:
    """What `compare` saw, if it is within the contract.

    Raises:
        SystemExit: labels that no near tie excuses, a difference above the tolerance, or nothing compared.
    """
    limits = {"eps": TIE, "grid": MAP_TOLERANCE, "heatmap": MAP_TOLERANCE}
    within = all(seen[name] is not None and seen[name] <= limit for name, limit in limits.items())
    if not within or seen["other_labels"] > seen["other_labels_at_a_near_tie"]:
        raise SystemExit(f"equivalence check failed, nothing is timed: {dict(seen)}")
    return dict(seen)


def closeness(result: Explanation, plain: Explanation) -> dict[str, Any]:
    """How far heatmaps (B,H,W) of a model in reduced precision are from those of the same model in float32.

    The worst image counts for `mean` and `correlation`; a blank or constant map correlates with nothing.
    """
    assert result.labels is not None
    assert plain.labels is not None
    difference = (result.heatmap - plain.heatmap).abs().flatten(1)
    correlations = [
        correlation(a, b) or 0.0 for a, b in zip(result.heatmap.cpu(), plain.heatmap.cpu(), strict=True)
    ]
    seen = {
        "mean": round(float(difference.mean(1).max()), 6),
        "largest": round(float(difference.max()), 6),
        "correlation": round(min(correlations), 6),
        "other_labels": round(float((result.labels != plain.labels).float().mean()), 6),
    }
    return {**seen, "within": seen["mean"] <= MEAN_TOLERANCE and seen["correlation"] >= CORRELATION}


def correlation(first: Tensor, second: Tensor) -> float | None:
    """Pearson correlation of two maps (H,W) in the CPU's memory; None where one is constant (blank)."""
    a, b = (map_.flatten().double().numpy() for map_ in (first, second))
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else None
