"""CF-CAM for one image, plainly: NumPy float64, scikit-learn's DBSCAN, OpenCV's bilateral filter.

Written independently of the batched code, which is tested against it. Slow on purpose where that
makes it easier to read. It is also an engine of its own, `engine="reference"`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import DBSCAN

from cfcam_gpu.config import DOMINANT, EPS_FLOOR, EPS_SLACK, NOISE, CFCAMConfig

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ReferenceResult:
    """labels (C,) int64; eps; grid (h,w), raw scale; heatmap (H,W) in [0,1]; blank; weights (C,1,1), or
    (C,h,w) where they are spatial."""

    labels: NDArray[np.int64]
    n_clusters: int
    eps: float
    weights: Array
    grid: Array
    heatmap: Array
    blank: bool


def cfcam_reference(
    activations: NDArray[np.floating],
    gradients: NDArray[np.floating],
    size: tuple[int, int],
    config: CFCAMConfig,
) -> ReferenceResult:
    """CF-CAM of one image's activations (C,h,w) and gradients (C,h,w); heatmap of `size` (H,W)."""
    a = np.asarray(activations, dtype=np.float64)
    g = np.asarray(gradients, dtype=np.float64)
    labels, eps = cluster(a.reshape(len(a), -1), config)
    weights = channel_weights(g, labels, config)
    grid = np.maximum((weights * a).sum(axis=0), 0)
    heatmap = resize_bilinear(grid, size)
    peak = heatmap.max()
    return ReferenceResult(
        labels=labels,
        n_clusters=int(labels.max() + 1) if labels.max() >= 0 else 0,
        eps=eps,
        weights=weights,
        grid=grid,
        heatmap=heatmap / peak if peak > 0 else heatmap,
        blank=bool(grid.max() <= 0),
    )


def cluster(features: Array, config: CFCAMConfig) -> tuple[NDArray[np.int64], float]:
    """Labels (C,) of the rows of features (C,D), and DBSCAN's eps."""
    labels = np.full(len(features), DOMINANT, dtype=np.int64)
    rest = np.flatnonzero(~is_dominant(features, config))
    if len(rest) < 2:
        labels[rest] = NOISE
        return labels, EPS_FLOOR
    distances = pairwise_distances(features[rest])
    off_diagonal = distances[~np.eye(len(rest), dtype=bool)]
    eps = max(float(np.percentile(off_diagonal, config.eps_percentile)), EPS_FLOOR)
    scan = DBSCAN(eps=eps * (1 + EPS_SLACK), min_samples=config.min_samples(len(rest)), metric="precomputed")
    labels[rest] = scan.fit(distances).labels_
    return labels, eps


def is_dominant(features: Array, config: CFCAMConfig) -> NDArray[np.bool_]:
    """(C,) bool: rows whose L2 norm reaches the configured percentile of all norms."""
    if config.dominant_percentile is None:
        return np.zeros(len(features), dtype=bool)
    norms = np.linalg.norm(features, axis=1)
    return norms >= np.percentile(norms, config.dominant_percentile) * (1 - EPS_SLACK)


def pairwise_distances(features: Array) -> Array:
    """Euclidean distances (N,N) by direct differencing."""
    return np.stack([np.sqrt(((features - row) ** 2).sum(axis=1)) for row in features])


def channel_weights(gradients: Array, labels: NDArray[np.int64], config: CFCAMConfig) -> Array:
    """Weights (C,1,1), or (C,h,w) where they are spatial, from gradients (C,h,w) and labels (C,); noise has none."""
    if config.weighting == "spatial":
        return np.maximum(weight_maps(gradients, labels, config, FILTERS[config.filter]), 0)
    pooled = weight_maps(gradients, labels, config, unfiltered).mean(axis=(1, 2), keepdims=True)
    if config.weighting == "softmax" and (labels != NOISE).any():
        valid = labels != NOISE
        exponentials = np.exp(pooled[valid] - pooled[valid].max())
        pooled[valid] = exponentials / exponentials.sum()
    return pooled


def weight_maps(
    gradients: Array, labels: NDArray[np.int64], config: CFCAMConfig, of_dominant: Callable[..., Array]
) -> Array:
    """(C,h,w): a dominant channel's gradient through `of_dominant`, its cluster's filtered mean, or zeros."""
    maps = np.zeros_like(gradients)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if label == DOMINANT:
            maps[members] = [of_dominant(gradients[channel], config) for channel in members]
        elif label != NOISE:
            maps[members] = FILTERS[config.filter](gradients[members].mean(axis=0), config)
    return maps


def bilateral(grid: Array, config: CFCAMConfig) -> Array:
    """`cv2.bilateralFilter` of a map (h,w), scaled to a peak of 1 first: OpenCV filters in float32."""
    radius = config.radius(*grid.shape)
    peak = np.abs(grid).max()
    if radius == 0 or peak == 0:  # OpenCV reads a diameter of 1 as 3
        return grid
    sigma_range = config.sigma_range / peak
    scaled = (grid / peak).astype(np.float32)
    filtered = cv2.bilateralFilter(
        scaled, 2 * radius + 1, sigma_range, config.sigma_space, borderType=cv2.BORDER_REFLECT_101
    )
    return filtered.astype(np.float64) * peak


def bilateral_relative(grid: Array, config: CFCAMConfig) -> Array:
    """`bilateral` with sigma_range in standard deviations of the map."""
    spread = grid.std()
    return bilateral(grid / spread, config) * spread if spread > 0 else grid


def bilateral_square(grid: Array, config: CFCAMConfig) -> Array:
    """Bilateral filter with the full square window and reflect-101 borders, cell by cell."""
    radius = config.radius(*grid.shape)
    padded = np.pad(grid, radius, mode="reflect")
    offsets = np.arange(-radius, radius + 1)
    space = np.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * config.sigma_space**2))
    filtered = np.empty_like(grid)
    for y, x in np.ndindex(grid.shape):
        window = padded[y : y + 2 * radius + 1, x : x + 2 * radius + 1]
        weights = space * np.exp(-((window - grid[y, x]) ** 2) / (2 * config.sigma_range**2))
        filtered[y, x] = (weights * window).sum() / weights.sum()
    return filtered


def gaussian(grid: Array, config: CFCAMConfig) -> Array:
    """`cv2.GaussianBlur` with reflect-101 borders."""
    size = 2 * config.radius(*grid.shape) + 1
    return np.asarray(
        cv2.GaussianBlur(grid, (size, size), config.sigma_space, borderType=cv2.BORDER_REFLECT_101),
        dtype=np.float64,
    )


def upstream(grid: Array, config: CFCAMConfig) -> Array:
    """The published code's filter: a kernel as large as the map, slid over it with zeros around."""
    h, w = grid.shape
    y, x = np.mgrid[:h, :w]
    kernel = np.exp(-((y - h / 2) ** 2 + (x - w / 2) ** 2) / (2 * config.sigma_space**2))
    kernel *= np.exp(-((grid - grid.mean()) ** 2) / (2 * config.sigma_range**2))
    kernel /= kernel.sum() + 1e-6
    top, left = (h - 1) // 2, (w - 1) // 2
    padded = np.pad(grid, ((top, h - 1 - top), (left, w - 1 - left)))
    return np.array([[(padded[i : i + h, j : j + w] * kernel).sum() for j in range(w)] for i in range(h)])


def unfiltered(grid: Array, config: CFCAMConfig) -> Array:
    """The map as it is."""
    return grid


FILTERS = {
    "bilateral": bilateral,
    "bilateral_relative": bilateral_relative,
    "bilateral_square": bilateral_square,
    "gaussian": gaussian,
    "upstream": upstream,
    "none": unfiltered,
}


def resize_bilinear(grid: Array, size: tuple[int, int]) -> Array:
    """Bilinear resampling of a map (h,w) with half-pixel centres, as align_corners=False does."""
    rows, columns = (_interpolation(n, m) for n, m in zip(grid.shape, size, strict=True))
    return np.asarray(rows @ grid @ columns.T)


def _interpolation(n: int, m: int) -> Array:
    """(m,n) matrix that resamples n cells to m."""
    position = np.clip((np.arange(m) + 0.5) * n / m - 0.5, 0, n - 1)
    low = np.minimum(position.astype(int), n - 1)
    high = np.minimum(low + 1, n - 1)
    matrix = np.zeros((m, n))
    np.add.at(matrix, (np.arange(m), low), 1 - (position - low))
    np.add.at(matrix, (np.arange(m), high), position - low)
    return matrix
