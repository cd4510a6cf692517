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
from cfcam_gpu.config import EPS_FLOOR, EPS_SLACK
from cfcam_gpu.engines import numba_kernels, numba_scan
from tests.helpers.features import blobs


@settings(max_examples=100, deadline=None)
@given(
    values=hnp.arrays(np.float32, st.integers(1, 60), elements=st.integers(0, 6).map(float)),
    rank=st.floats(0, 0.999),
)
def test_selection_leaves_nothing_smaller_behind_the_rank(values, rank):
    k, original = int(rank * len(values)), values.copy()
    assert numba_kernels._select(values, k) == np.sort(original)[k]
    assert (values[k:] >= values[k]).all()
    np.testing.assert_array_equal(np.sort(values), np.sort(original))


def whole_numbers(n: int, depth: int) -> np.ndarray:
    """Channels (n,depth) whose squared distances float32 holds exactly; many are the same."""
    return np.random.default_rng(n * depth).integers(0, 3, (n, depth)).astype(np.float32)


def squared_distances(x: np.ndarray) -> np.ndarray:
    """(n,n) float64, by differencing."""
    return ((x[:, None].astype(np.float64) - x) ** 2).sum(2)


def near_in(scratch: numba_scan.Scratch, n: int) -> np.ndarray:
    """(n,n) bool: which of the first n channels are neighbours, from the bits of the rows."""
    bits = np.unpackbits(scratch.rows[:n].view(np.uint8), axis=1, bitorder="little")[:, :n].astype(bool)
    places = np.argsort(scratch.order[:n])
    assert (np.sort(scratch.order[:n]) == np.arange(n)).all()
    return bits[np.ix_(places, places)]


def expected_neighbours(x: np.ndarray, percentile: float) -> tuple[float, np.ndarray]:
    """eps, and (n,n) bool."""
    squared = squared_distances(x)
    pairs = squared[np.triu_indices(len(x), 1)]
    eps = max(float(np.percentile(np.repeat(np.sqrt(pairs), 2), percentile)), EPS_FLOOR)
    return eps, squared <= (eps * (1 + EPS_SLACK)) ** 2


@pytest.mark.parametrize("percentile", [0.0, 10.0, 25.0, 100.0])
@pytest.mark.parametrize("depth", [1, 3, 4, 49, 64, 67, 196])
@pytest.mark.parametrize("n", [2, 3, 63, 64, 65, 130, 200])
def test_neighbours_of_any_number_of_channels_and_any_depth(n, depth, percentile):
    """The memory is another image's, and larger; blocks of 64 channels, the last of them cut, all mirrored."""
    x = whole_numbers(n, depth)
    scratch = numba_scan.Scratch.of(n + 70)
    scratch.rows[:] = np.uint64(2**64 - 1)
    eps = numba_scan.neighbours(x, percentile, scratch)
    expected, near = expected_neighbours(x, percentile)
    assert eps == pytest.approx(expected, rel=1e-12)
    np.testing.assert_array_equal(near_in(scratch, n), near)


def with_dead_channels(n: int, dead: int, depth: int) -> np.ndarray:
    """Channels (n,depth), of which so many, anywhere among them, are zero everywhere; some with minus zeros."""
    x = whole_numbers(n, depth) + np.float32(1)
    places = np.random.default_rng(dead).permutation(n)[:dead]
    x[places] = 0
    x[places[::3]] *= -1
    return x


@pytest.mark.parametrize("percentile", [0.0, 3.0, 25.0, 60.0, 100.0])
@pytest.mark.parametrize("dead", [1, 2, 30, 63, 64, 65, 128, 190, 199, 200])
def test_dead_channels_are_counted_each(dead, percentile):
    """The distances of 0 among them lie below both ranks, at one of them, or above."""
    x = with_dead_channels(200, dead, 5)
    scratch = numba_scan.Scratch.of(200)
    scratch.rows[:] = np.uint64(2**64 - 1)
    eps = numba_scan.neighbours(x, percentile, scratch)
    expected, near = expected_neighbours(x, percentile)
    assert eps == pytest.approx(expected, rel=1e-12)
    np.testing.assert_array_equal(near_in(scratch, 200), near)


@settings(max_examples=200, deadline=None)
@given(n=st.integers(2, 90), share=st.floats(0, 1), percentile=st.floats(0, 100), seed=st.integers(0, 99))
def test_dead_channels_of_any_number(n, share, percentile, seed):
    """The ranks that eps lies between may be those of the last distance of 0 and the first above."""
    x = with_dead_channels(n, round(share * n), 1 + seed % 7)
    scratch = numba_scan.Scratch.of(n)
    eps = numba_scan.neighbours(x, percentile, scratch)
    expected, near = expected_neighbours(x, percentile)
    assert eps == pytest.approx(expected, rel=1e-9)
    np.testing.assert_array_equal(near_in(scratch, n), near)


@pytest.mark.parametrize("dead", [200, 500, 580])
def test_few_pairs_are_kept_of_dead_channels(dead):
    x = np.random.default_rng(0).random((600, 49)).astype(np.float32)
    x[np.random.default_rng(1).permutation(600)[:dead]] = 0
    scratch = numba_scan.Scratch.of(600)
    numba_scan.neighbours(x, 25.0, scratch)
    assert scratch.starts[600] < 0.06 * 600 * 599 / 2


@pytest.mark.parametrize("dead", [1, 2, 20, 45])
def test_labels_of_dead_channels(dead):
    """Clusters are numbered by their lowest core channel, wherever the dead ones lie."""
    activations, _ = blobs(3, 120, 4, 4, clusters=3)
    for b, image in enumerate(activations):
        image[np.random.default_rng(b).permutation(120)[:dead]] = 0
    config = CFCAMConfig(dominant_percentile=None, eps_percentile=20)
    expected = clustering.cluster_channels(activations, config, clustering.scan_in_chunks)
    found = clustering.cluster_channels(activations, config, numba_scan.scan_compiled)
    assert torch.equal(found.labels, expected.labels)
    assert (found.n_clusters > 1).all()


@pytest.mark.parametrize("percentile", [0.0, 25.0, 100.0])
@pytest.mark.parametrize("interval", [(0.0, 0.0), (1e9, 1e9), (2.0, 2.0), (0.0, "eps")], ids=str)
def test_a_sample_that_misleads_changes_nothing(monkeypatch, interval, percentile):
    """Neither an interval without the ranks, nor one that ends at eps, above which pairs are neighbours by rounding."""
    x = whole_numbers(100, 20)
    expected, near = expected_neighbours(x, percentile)
    low, high = interval
    high = float(np.float32(expected**2)) if high == "eps" else high
    monkeypatch.setattr(numba_scan, "interval", lambda *_: (low, high))
    scratch = numba_scan.Scratch.of(100)
    assert numba_scan.neighbours(x, percentile, scratch) == pytest.approx(expected, rel=1e-12)
    np.testing.assert_array_equal(near_in(scratch, 100), near)


def test_few_pairs_are_kept():
    """Else memory and time of a pass over all distances would be back."""
    x = np.random.default_rng(0).random((600, 49)).astype(np.float32)
    scratch = numba_scan.Scratch.of(600)
    eps = numba_scan.neighbours(x, 25.0, scratch)
    assert eps == pytest.approx(expected_neighbours(x, 25.0)[0], rel=1e-6)
    assert 100 < scratch.starts[600] < 0.06 * 600 * 599 / 2


@pytest.mark.parametrize("depth", [1, 3, 4, 49, 64, 67, 196, 3136])
def test_distances_of_any_depth(depth):
    """With an interval that holds all, all are kept."""
    x = np.random.default_rng(depth).standard_normal((9, depth)).astype(np.float32)
    _, rows, values, places, starts = numba_scan.Scratch.of(9)
    columns = np.ascontiguousarray(x.T)
    assert numba_kernels.compare(columns, 9, 0.0, np.inf, rows, values, places, starts) == (0, 36)
    first, second = np.triu_indices(9, 1)
    np.testing.assert_array_equal(places, second)
    np.testing.assert_array_equal(np.repeat(np.arange(9), np.diff(starts)), first)
    np.testing.assert_allclose(values, squared_distances(x)[first, second], rtol=5e-7)


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
