"""The percentile of the pairwise distances against the one of all distances, stored and sorted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cfcam_gpu.cfcam import clustering
from cfcam_gpu.config import EPS_FLOOR, EPS_SLACK
from cfcam_gpu.kernels import distances, neighbours
from tests.helpers.kernel_inputs import SHAPES, Launch, columns_of, random_features, sequential, valid_rows
from tests.helpers.tolerances import TIE


def percentile_of(
    features: Tensor, counts: Tensor, percentile: float = 25, block: int = 64
) -> tuple[Tensor, Tensor]:
    """The order statistics (B,2) and eps (B,), of the kernels."""
    columns = columns_of(features, block)
    return distances.distance_percentile(columns, counts.int(), percentile, EPS_FLOOR, block)


@pytest.mark.parametrize(
    ("kind", "percentile"),
    [("random", 0), ("random", 25), ("random", 100), ("ties", 25), ("dead", 25)],
)
@pytest.mark.parametrize(("n", "depth"), SHAPES)
def test_percentile_is_that_of_all_stored_distances(device, monkeypatch, n, depth, kind, percentile):
    """The two order statistics are those of the sorted pairs, bit for bit where the CPU sums alike.

    A small sample, which saves time here, may mislead and must not matter.
    """
    monkeypatch.setattr(distances, "SAMPLES", 256)
    features, counts = random_features(n, depth, kind)
    statistics, eps = percentile_of(features.to(device), counts.to(device), percentile)
    squared = sequential(features)
    rounding = 0 if device == "cpu" else TIE
    for image, count in enumerate(counts.tolist()):
        pairs = np.sort(squared[image, :count, :count].numpy()[np.triu_indices(count, 1)])
        if not len(pairs):
            assert statistics[image].tolist() == [0, 0]
            assert float(eps[image]) == EPS_FLOOR
            continue
        low = percentile / 100 * (2 * len(pairs) - 1)
        ranks = [int(low) // 2, min(int(low) + 1, 2 * len(pairs) - 1) // 2]
        torch.testing.assert_close(
            statistics[image].cpu(), torch.from_numpy(pairs[ranks]), rtol=rounding, atol=0
        )
    valid = valid_rows(counts, n)
    stored = clustering.distance_percentile(
        clustering.pairwise_distances(features, valid), counts, percentile
    )
    torch.testing.assert_close(eps.cpu(), stored, rtol=TIE, atol=0)


@pytest.mark.parametrize("block", [32, 64, 128])
def test_tiles_of_any_size_give_the_same_bits(device, block):
    features, counts = random_features(130, 3, "random")
    features, counts = features.to(device), counts.to(device)
    statistics, eps = percentile_of(features, counts, block=block)
    plain, plain_eps = percentile_of(features, counts)
    assert torch.equal(statistics, plain)
    assert torch.equal(eps, plain_eps)
    for one, other in zip(
        neighbours.neighbours(columns_of(features, block), counts.int(), eps, EPS_SLACK, 130, block),
        neighbours.neighbours(columns_of(features, 64), counts.int(), eps, EPS_SLACK, 130, 64),
        strict=True,
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("low", "width"), [(0.0, 0), (1e-3, 0), (1e30, 0), (1e30, 5)], ids=["zero", "below", "above", "wide"]
)
def test_a_sample_that_misleads_does_not_change_the_percentile(device, monkeypatch, low, width):
    """The first interval lies far from the rank, on either side of it."""
    features, counts = random_features(63, 5, "random")
    features, counts = features.to(device), counts.to(device)
    expected, _ = percentile_of(features, counts)

    def misleading(_grid: tuple[int, ...], *arguments: Tensor) -> None:
        start, shift, found, _eps = arguments[2:6]
        found.zero_()
        start.copy_(torch.full_like(start, low, dtype=torch.float32).view(torch.int32))
        shift.fill_(width)

    monkeypatch.setattr(distances, "_sample", Launch(misleading))
    statistics, _ = percentile_of(features, counts)
    assert torch.equal(statistics, expected)


@pytest.mark.parametrize("percentile", [10, 25, 50, 90])
def test_the_sample_leaves_few_pairs_to_the_first_pass(device, monkeypatch, percentile):
    """Its interval holds the rank and not much else, or a pass over all pairs is wasted."""
    features, counts = random_features(130, 7, "random")
    features, counts = features[:1].to(device), counts[:1].to(device)
    intervals = []
    count = distances._count

    def recording(grid: tuple[int, ...], *arguments: Tensor) -> None:
        low, shift = arguments[2:4]
        intervals.append((int(low), int(shift)))
        count[grid](*arguments)

    monkeypatch.setattr(distances, "_count", Launch(recording))
    statistics, _ = percentile_of(features, counts, percentile)
    low, width = intervals[0]
    rank_bits = int(statistics[0, 0].view(torch.int32))
    assert 0 <= (rank_bits - low) >> width < 2**distances.LOG2_BINS
    bits = sequential(features.cpu())[0][np.triu_indices(130, 1)].view(torch.int32).long()
    assert (((bits - low) >> width) // 2**distances.LOG2_BINS == 0).float().mean() < 0.15
    assert -1 in [shift for _, shift in intervals], "one pass more than planned"
