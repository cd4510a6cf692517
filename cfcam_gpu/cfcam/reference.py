"""CF-CAM for one image in plain code: NumPy float64, scikit-learn's DBSCAN, OpenCV's bilateral filter.

Written independently of the batched code, which is tested against it. Where slow code is easier to
read it is slow. It is also an engine of its own, `engine="reference"`.
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
    """The map of one image for one target, and what it was made from.

    Attributes:
        labels: (C,) int64: cluster 0, 1, …; -1 noise; -2 dominant.
        n_clusters: number of clusters.
        eps: DBSCAN's eps, in units of the activations.
        weights: (C,1,1) float64, or (C,h,w) for the weighting `spatial`.
        grid: (h,w) float64, the saliency map at the layer's resolution, raw scale, not negative.
        heatmap: (H,W) float64 in [0,1].
        blank: whether the grid is zero everywhere.
    """

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
    """CF-CAM of one image.

    Args:
        activations: (C,h,w), of the target layer.
        gradients: (C,h,w), of the target score.
        size: (H,W) of the heatmap.
        config: parameters of CF-CAM.

    Source: He, Pan and Yao 2025, arXiv 2504.00060, and its published code.

    Example:
        >>> activations = np.array([0.0, 0.0, 1.0, 9.0]).reshape(4, 1, 1)
        >>> gradients = np.array([1.0, 3.0, 5.0, 7.0]).reshape(4, 1, 1)
        >>> result = cfcam_reference(activations, gradients, (1, 1), CFCAMConfig())
        >>> result.labels.tolist(), result.weights.ravel().tolist(), result.grid.tolist()
        ([0, 0, -1, -2], [2.0, 2.0, 0.0, 7.0], [[63.0]])
    """
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
    """Labels (C,) of the rows of features (C,D), and DBSCAN's eps.

    Example:
        >>> labels, _ = cluster(np.array([[0.0], [0.0], [1.0], [9.0]]), CFCAMConfig())
        >>> labels.tolist()
        [0, 0, -1, -2]
    """
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
    """(C,) bool: the rows of features (C,D) whose L2 norm reaches the configured percentile of all norms.

    Example:
        >>> is_dominant(np.array([[1.0], [2.0], [9.0]]), CFCAMConfig(dominant_percentile=75)).tolist()
        [False, False, True]
    """
    if config.dominant_percentile is None:
        return np.zeros(len(features), dtype=bool)
    norms = np.linalg.norm(features, axis=1)
    return norms >= np.percentile(norms, config.dominant_percentile) * (1 - EPS_SLACK)


def pairwise_distances(features: Array) -> Array:
    """Euclidean distances (N,N) of the rows of features (N,D), by direct differencing.

    Example:
        >>> pairwise_distances(np.array([[0.0, 0.0], [3.0, 4.0]])).tolist()
        [[0.0, 5.0], [5.0, 0.0]]
    """
    return np.stack([np.sqrt(((features - row) ** 2).sum(axis=1)) for row in features])


def channel_weights(gradients: Array, labels: NDArray[np.int64], config: CFCAMConfig) -> Array:
    """Weights (C,1,1), or (C,h,w) for the weighting `spatial`, from gradients (C,h,w) and labels (C,); noise has 0.

    Example:
        >>> gradients = np.array([1.0, 3.0, 5.0, 7.0]).reshape(4, 1, 1)
        >>> channel_weights(gradients, np.array([0, 0, -1, -2]), CFCAMConfig()).ravel().tolist()
        [2.0, 2.0, 0.0, 7.0]
    """
    if config.weighting == "spatial":
        return np.maximum(_weight_maps(gradients, labels, config, FILTERS[config.filter]), 0)
    pooled = _weight_maps(gradients, labels, config, unfiltered).mean(axis=(1, 2), keepdims=True)
    if config.weighting == "softmax" and (labels != NOISE).any():
        valid = labels != NOISE
        exponentials = np.exp(pooled[valid] - pooled[valid].max())
        pooled[valid] = exponentials / exponentials.sum()
    return pooled


def _weight_maps(
    gradients: Array, labels: NDArray[np.int64], config: CFCAMConfig, of_dominant: Callable[..., Array]
) -> Array:
    """A map (C,h,w) for each channel.

    A dominant channel has its own gradient map, changed by `of_dominant`; a clustered channel has
    its cluster's filtered mean; noise has zeros.
    """
    maps = np.zeros_like(gradients)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if label == DOMINANT:
            maps[members] = [of_dominant(gradients[channel], config) for channel in members]
        elif label != NOISE:
            maps[members] = FILTERS[config.filter](gradients[members].mean(axis=0), config)
    return maps


def bilateral(grid: Array, config: CFCAMConfig) -> Array:
    """`cv2.bilateralFilter` of a map (h,w), scaled to a largest magnitude of 1, since OpenCV filters in float32.

    Example:
        >>> bilateral(np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]), CFCAMConfig(sigma_range=0.1)).round().tolist()
        [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]
    """
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
    """`bilateral` with `sigma_range` in standard deviations of the map.

    Example:
        >>> grid, config = np.array([[0.0, 1.0], [2.0, 3.0]]), CFCAMConfig(sigma_range=1.0)
        >>> np.allclose(bilateral_relative(8 * grid, config), 8 * bilateral_relative(grid, config))
        True
    """
    spread = grid.std()
    return bilateral(grid / spread, config) * spread if spread > 0 else grid


def bilateral_square(grid: Array, config: CFCAMConfig) -> Array:
    """Bilateral filter of a map (h,w) with the full square window and reflect-101 borders, cell by cell.

    Example:
        >>> bilateral_square(np.full((2, 2), 3.0), CFCAMConfig()).round(6).tolist()
        [[3.0, 3.0], [3.0, 3.0]]
    """
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
    """`cv2.GaussianBlur` of a map (h,w) with reflect-101 borders.

    Example:
        >>> dot = np.zeros((5, 5))
        >>> dot[2, 2] = 1
        >>> gaussian(dot, CFCAMConfig(sigma_space=1.0, diameter=3))[2].round(4).tolist()
        [0.0, 0.1238, 0.2042, 0.1238, 0.0]
    """
    size = 2 * config.radius(*grid.shape) + 1
    return np.asarray(
        cv2.GaussianBlur(grid, (size, size), config.sigma_space, borderType=cv2.BORDER_REFLECT_101),
        dtype=np.float64,
    )


def upstream(grid: Array, config: CFCAMConfig) -> Array:
    """The published code's filter of a map (h,w): a kernel as large as the map slides over it, with zeros around.

    Example:
        >>> upstream(np.zeros((5, 5)), CFCAMConfig()).any().item()
        False
    """
    h, w = grid.shape
    y, x = np.mgrid[:h, :w]
    kernel = np.exp(-((y - h / 2) ** 2 + (x - w / 2) ** 2) / (2 * config.sigma_space**2))
    kernel *= np.exp(-((grid - grid.mean()) ** 2) / (2 * config.sigma_range**2))
    kernel /= kernel.sum() + 1e-6
    top, left = (h - 1) // 2, (w - 1) // 2
    padded = np.pad(grid, ((top, h - 1 - top), (left, w - 1 - left)))
    return np.array([[(padded[i : i + h, j : j + w] * kernel).sum() for j in range(w)] for i in range(h)])


def unfiltered(grid: Array, _config: CFCAMConfig) -> Array:
    """The map as it is.

    Example:
        >>> unfiltered(np.eye(2), CFCAMConfig()).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    return grid


#: Name in the configuration -> (map (h,w), config) -> filtered map (h,w).
FILTERS = {
    "bilateral": bilateral,
    "bilateral_relative": bilateral_relative,
    "bilateral_square": bilateral_square,
    "gaussian": gaussian,
    "upstream": upstream,
    "none": unfiltered,
}


def resize_bilinear(grid: Array, size: tuple[int, int]) -> Array:
    """The map (h,w) at `size` (H,W): bilinear with half-pixel centres, PyTorch's align_corners=False.

    Example:
        >>> resize_bilinear(np.array([[0.0, 4.0]]), (1, 4)).tolist()
        [[0.0, 1.0, 3.0, 4.0]]
    """
    rows, columns = (_interpolation(n, m) for n, m in zip(grid.shape, size, strict=True))
    return np.asarray(rows @ grid @ columns.T)


def _interpolation(n: int, m: int) -> Array:
    """The matrix (m,n) that resamples n cells to m."""
    position = np.clip((np.arange(m) + 0.5) * n / m - 0.5, 0, n - 1)
    low = np.minimum(position.astype(int), n - 1)
    high = np.minimum(low + 1, n - 1)
    matrix = np.zeros((m, n))
    np.add.at(matrix, (np.arange(m), low), 1 - (position - low))
    np.add.at(matrix, (np.arange(m), high), position - low)
    return matrix
