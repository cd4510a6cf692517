"""Selection, DBSCAN and connected components against NumPy and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.cluster import DBSCAN

from cfcam_gpu import CFCAMConfig
from cfcam_gpu.cfcam import clustering
from cfcam_gpu.config import EPS_FLOOR, EPS_SLACK
from tests.helpers.features import blobs

SELECTORS = [clustering.select_by_partition, clustering.select_by_bisection]


@pytest.mark.parametrize("select", SELECTORS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_selection_finds_order_statistics_among_ties_and_infinities(select, data):
    floats = st.floats(0, width=32, allow_infinity=True, allow_nan=False, allow_subnormal=True).map(abs)
    values = data.draw(
        hnp.arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 40)), elements=floats)
    )
    ranks = data.draw(hnp.arrays(np.int64, (len(values), 2), elements=st.integers(0, values.shape[1] - 1)))
    statistics = select(torch.from_numpy(values), torch.from_numpy(ranks))
    np.testing.assert_array_equal(
        statistics.numpy(), np.take_along_axis(np.sort(values, axis=1), ranks, axis=1)
    )


@pytest.mark.parametrize("percentile", [0, 3, 25, 50, 99.9, 100])
@pytest.mark.parametrize("n", [2, 3, 4, 5, 31])
def test_eps_is_numpys_percentile_of_the_off_diagonal_distances(n, percentile):
    features = torch.randn(2, n, 6, generator=torch.Generator().manual_seed(n))
    distances = clustering.pairwise_distances(features, torch.ones(2, n, dtype=torch.bool))
    eps = clustering.distance_percentile(distances, torch.tensor([n, n]), percentile)
    for image in range(2):
        off_diagonal = distances[image][~torch.eye(n, dtype=torch.bool)].double().numpy()
        assert float(eps[image]) == pytest.approx(np.percentile(off_diagonal, percentile), rel=1e-12)


def test_images_with_different_numbers_of_clustered_channels_share_a_batch():
    """Ties at the dominance threshold change N from image to image."""
    activations, _ = blobs(3, 41, 4, 4, clusters=2)
    activations[1, :20] = 7.0
    activations[2] = activations[2, :1]
    together = clustering.cluster_channels(activations, CFCAMConfig(), clustering.scan_in_chunks)
    counts = (together.labels != -2).sum(1)
    assert counts[2] == 0
    assert len(counts.unique()) == 3
    for image in range(3):
        alone = clustering.cluster_channels(
            activations[image, None], CFCAMConfig(), clustering.scan_in_chunks
        )
        assert torch.equal(alone.labels[0], together.labels[image])
        assert float(alone.eps[0]) == pytest.approx(float(together.eps[image]), rel=1e-6)


def test_chunks_of_images_do_not_change_the_result(monkeypatch):
    activations, _ = blobs(5, 60, 4, 4, clusters=3)
    whole = clustering.cluster_channels(activations, CFCAMConfig(), clustering.scan_in_chunks)
    monkeypatch.setitem(clustering.CHUNK_BYTES, "cpu", 1)
    chunked = clustering.cluster_channels(activations, CFCAMConfig(), clustering.scan_in_chunks)
    assert torch.equal(whole.labels, chunked.labels)
    assert torch.equal(whole.eps, chunked.eps)


@settings(max_examples=150, deadline=None)
@given(
    n=st.integers(1, 40),
    grid=st.integers(2, 9),
    eps=st.sampled_from([0.5, 1.0, 1.5, 2.3]),
    minimum=st.integers(2, 6),
    seed=st.integers(0, 2**31),
)
def test_dbscan_gives_scikit_learns_labels(n, grid, eps, minimum, seed):
    """Points on a small grid: contested border points, chains, duplicates, several clusters."""
    points = np.random.default_rng(seed).integers(0, grid, (n, 2)).astype(np.float32)
    expected = DBSCAN(eps=eps * (1 + EPS_SLACK), min_samples=minimum).fit(points.astype(np.float64)).labels_
    distances = torch.cdist(torch.from_numpy(points), torch.from_numpy(points))[None]
    labels, count = clustering.dbscan(
        distances, torch.tensor([eps], dtype=torch.float64), torch.tensor([minimum])
    )
    np.testing.assert_array_equal(labels[0].numpy(), expected)
    assert int(count[0]) == expected.max() + 1


@pytest.mark.parametrize("kind", ["path", "shuffled path", "star", "tree", "two halves"])
@pytest.mark.parametrize("n", [1, 2, 3, 64, 97])
def test_components_need_no_look_at_the_data(kind, n):
    """The fixed number of rounds that a GPU runs is enough even for the longest chains."""
    order = np.arange(n) if kind == "path" else np.random.default_rng(n).permutation(n)
    parent = {"star": np.zeros(n, int), "tree": (np.arange(n) - 1) // 2}.get(kind, np.arange(n) - 1)
    adjacency = np.eye(n, dtype=bool)
    for child in range(1, n):
        if kind != "two halves" or child != n // 2:
            adjacency[order[child], order[parent[child]]] = adjacency[order[parent[child]], order[child]] = (
                True
            )
    neighbours, core = torch.from_numpy(adjacency)[None], torch.ones(1, n, dtype=torch.bool)
    fixed = clustering.connected_components(neighbours, core, end_early=False)
    for tensor, expected in zip(
        fixed, clustering.connected_components(neighbours, core, end_early=True), strict=True
    ):
        assert torch.equal(tensor, expected)
    assert len(fixed[1].unique()) == (2 if kind == "two halves" and n > 1 else 1)


def test_identical_channels_have_distance_zero_at_any_scale():
    features = (1e6 * torch.randn(1, 1, 49)).expand(1, 30, 49).contiguous()
    distances = clustering.pairwise_distances(features, torch.ones(1, 30, dtype=torch.bool))
    assert float(distances.max()) == 0
    assert float(clustering.distance_percentile(distances, torch.tensor([30]), 25)) == EPS_FLOOR


def test_channels_outside_the_clustering_are_infinitely_far():
    valid = torch.tensor([[True, False, True]])
    distances = clustering.pairwise_distances(torch.zeros(1, 3, 2), valid)
    assert distances[0, 0, 2] == 0
    assert math.isinf(distances[0, 1, 1])
    assert math.isinf(distances[0, 0, 1])
