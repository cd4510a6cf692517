"""The reference against scikit-learn and OpenCV called directly, step by step."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import DBSCAN

from cfcam_gpu import CFCAMConfig
from cfcam_gpu.cfcam import reference
from cfcam_gpu.config import EPS_SLACK
from tests.helpers.features import blobs


@pytest.mark.parametrize("percentile", [5, 25])
@pytest.mark.parametrize("seed", range(4))
def test_labels_are_scikit_learns(seed, percentile):
    features = blobs(1, 120, 6, 6, clusters=5, seed=seed)[0][0].flatten(1).double().numpy()
    labels, eps = reference.cluster(
        features, CFCAMConfig(dominant_percentile=None, eps_percentile=percentile)
    )
    direct = DBSCAN(eps=eps * (1 + EPS_SLACK), min_samples=max(2, int(0.05 * 120))).fit(features)
    np.testing.assert_array_equal(labels, direct.labels_)


@pytest.mark.parametrize("layer", ["_swish", "_blocks.10"])
def test_labels_on_real_features_are_scikit_learns(real_features, layer):
    for activations in real_features(layer)[0]:
        features = activations.flatten(1).double().numpy()
        norms = np.linalg.norm(features, axis=1)
        rest = np.flatnonzero(norms < np.percentile(norms, 75))
        labels, eps = reference.cluster(features, CFCAMConfig())
        direct = DBSCAN(eps=eps * (1 + EPS_SLACK), min_samples=int(0.05 * len(rest))).fit(features[rest])
        np.testing.assert_array_equal(labels[rest], direct.labels_)
        assert (np.delete(labels, rest) == -2).all()


def test_bilateral_is_opencvs_on_cluster_means_of_real_gradients(real_features):
    activations, gradients = real_features("_blocks.4")
    for image in range(len(activations)):
        mean = gradients[image, 0, :10].mean(0).numpy()
        scaled = mean / np.abs(mean).max()
        expected = cv2.bilateralFilter(scaled, 17, 0.3, 5.0, borderType=cv2.BORDER_REFLECT_101)
        filtered = reference.bilateral(scaled.astype(np.float64), CFCAMConfig(sigma_range=0.3))
        np.testing.assert_allclose(filtered, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (3, 4), (5, 9), (14, 27), (64, 48)])
@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (5, 9), (14, 7)])
def test_resize_is_torchs_bilinear(shape, size):
    grid = torch.rand(shape, dtype=torch.float64)
    expected = F.interpolate(grid[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
    np.testing.assert_allclose(
        reference.resize_bilinear(grid.numpy(), size), expected.numpy(), rtol=0, atol=1e-12
    )


def test_a_case_small_enough_to_work_out_by_hand():
    """Channels 0, 0, 1, 9 at one cell, gradient 1, 3, 5, 7: 9 is dominant, the zeros a cluster, 1 is noise."""
    activations = np.array([0.0, 0.0, 1.0, 9.0]).reshape(4, 1, 1)
    gradients = np.array([1.0, 3.0, 5.0, 7.0]).reshape(4, 1, 1)
    result = reference.cfcam_reference(activations, gradients, (1, 1), CFCAMConfig())
    assert result.labels.tolist() == [0, 0, -1, -2]
    assert result.weights.ravel().tolist() == [2, 2, 0, 7]
    assert result.grid.tolist() == [[63]]
    assert result.heatmap.tolist() == [[1]]


def test_spatial_weights_worked_out_by_hand():
    """As above at two cells: a cluster's mean gradient map, a dominant channel's own, their positive parts."""
    activations = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 1.0], [9.0, 3.0]]).reshape(4, 1, 2)
    gradients = np.array([[1.0, -2.0], [3.0, -4.0], [5.0, 5.0], [-7.0, 2.0]]).reshape(4, 1, 2)
    result = reference.cfcam_reference(
        activations, gradients, (1, 2), CFCAMConfig(weighting="spatial", filter="none")
    )
    assert result.labels.tolist() == [0, 0, -1, -2]
    assert result.weights.tolist() == [[[2, 0]], [[2, 0]], [[0, 0]], [[0, 2]]]
    assert result.grid.tolist() == [[0, 6]]
