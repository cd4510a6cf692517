"""The compiled scan's own parts: selection, a sample that misleads, slices over threads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cfcam_gpu import CFCAMConfig
from cfcam_gpu.cfcam import clustering
from cfcam_gpu.engines import numba_scan
from tests.helpers.features import blobs


@settings(max_examples=100, deadline=None)
@given(
    values=hnp.arrays(np.float32, st.integers(1, 60), elements=st.integers(0, 6).map(float)),
    rank=st.floats(0, 0.999),
)
def test_selection_leaves_nothing_smaller_behind_the_rank(values, rank):
    k, original = int(rank * len(values)), values.copy()
    assert numba_scan._select(values, k) == np.sort(original)[k]
    assert (values[k:] >= values[k]).all()
    np.testing.assert_array_equal(np.sort(values), np.sort(original))


@pytest.mark.parametrize("sampled", [0.0, 5.0])
def test_a_sample_that_misleads_does_not_change_the_percentile(sampled):
    """All sampled pairs have one value, the others lie elsewhere: the bracket does not hold the rank."""
    n = 500
    squared = np.random.default_rng(0).uniform(1, 2, n * (n - 1) // 2).astype(np.float32)
    stride = squared.size / numba_scan.SAMPLE
    squared[(np.arange(numba_scan.SAMPLE) * stride).astype(int)] = sampled
    kept = np.empty_like(squared)
    below, inside = numba_scan._interval(squared, squared.size // 4, kept)
    assert not below <= squared.size // 4 < below + inside
    percentile = numba_scan._percentile(squared, n, 25.0, kept)
    assert percentile == pytest.approx(
        np.percentile(np.repeat(np.sqrt(squared.astype(np.float64)), 2), 25), rel=1e-12
    )


@pytest.mark.parametrize("depth", [1, 3, 4, 49, 64, 67, 196])
def test_distances_of_any_depth(depth):
    x = np.random.default_rng(depth).standard_normal((9, depth)).astype(np.float32)
    squared = np.empty(36, np.float32)
    numba_scan._squared_distances(x, squared)
    rows, columns = np.triu_indices(9, 1)
    exact = ((x[rows].astype(np.float64) - x[columns]) ** 2).sum(1)
    np.testing.assert_allclose(squared, exact, rtol=5e-7)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_changes_nothing(threads):
    activations, _ = blobs(5, 60, 4, 4, clusters=3)
    expected = clustering.cluster_channels(activations, CFCAMConfig(), clustering.scan_in_chunks)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        clusters = clustering.cluster_channels(activations, CFCAMConfig(), numba_scan.scan_compiled)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(clusters.labels, expected.labels)
