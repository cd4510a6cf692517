"""eps and the neighbours against all distances, stored and sorted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from cfcam_gpu.cfcam import clustering
from cfcam_gpu.config import EPS_FLOOR, EPS_SLACK
from cfcam_gpu.kernels import distances, neighbours
from tests.helpers.kernel_inputs import (
    SHAPES,
    Launch,
    columns_of,
    random_features,
    roots,
    sequential,
    unpacked,
    valid_rows,
)
from tests.helpers.tolerances import TIE

CASES = [("random", 0), ("random", 25), ("random", 100), ("ties", 25), ("dead", 25), ("dead", 50)]


@triton.jit
def _limits(eps: tl.tensor, out: tl.tensor, count: tl.tensor, COUNT: tl.constexpr) -> None:
    index = tl.arange(0, COUNT)
    limits = distances.squared_limit(tl.load(eps + index, mask=index < count, other=1.0), 1.0)
    tl.store(out + index, limits, mask=index < count)


def test_the_squared_limit_is_the_comparison_of_roots(device):
    """d² <= limit holds just where the float32 root of d² is at most t."""
    t = 10 ** (12 * torch.rand(20_000, generator=torch.Generator().manual_seed(0)) - 5)
    t = torch.cat([t, torch.tensor([EPS_FLOOR, 1.0, 2.0, 0.5, 3.0])])
    limit = torch.empty_like(t, device=device)
    _limits[(1,)](t.double().to(device), limit, len(t), 32768)
    limit = limit.cpu()
    assert (roots(limit) <= t).all()
    assert (roots(torch.nextafter(limit, torch.full_like(t, torch.inf))) > t).all()


@pytest.mark.parametrize("floor", [1e-5, 1.0, 3.7, 1e-3])
def test_the_first_pattern_is_the_lowest_above_the_smallest_eps(floor):
    values = np.array([distances.first_pattern(floor) + step for step in (-1, 0)], np.int32).view(np.float32)
    below, above = np.sqrt(values.astype(np.float64))
    assert below <= floor < above


def scanned(
    features: Tensor, counts: Tensor, percentile: float, capacity: int | None = None
) -> tuple[Tensor, Tensor]:
    """Words and eps, of the kernels."""
    columns = columns_of(features.cpu(), counts.cpu()).to(features.device)
    n = features.shape[1]
    return neighbours.neighbours(columns, counts.int(), percentile, EPS_FLOOR, EPS_SLACK, n, capacity)


def check(
    device: str, features: Tensor, counts: Tensor, percentile: float, capacity: int | None = None
) -> None:
    """eps is that of the sorted pairs, bit for bit where the CPU sums alike, and the neighbours lie within it."""
    words, eps = scanned(features.to(device), counts.to(device), percentile, capacity)
    squared = sequential(features)
    for image, count in enumerate(counts.tolist()):
        pairs = np.sort(squared[image, :count, :count].numpy()[np.triu_indices(count, 1)])
        place = percentile / 100 * max(2 * len(pairs) - 1, 0)
        ranks = [int(place) // 2, min(int(place) + 1, max(2 * len(pairs) - 1, 0)) // 2]
        low, high = np.sqrt(pairs[ranks].astype(np.float64)) if len(pairs) else (0.0, 0.0)
        expected = max(low + (high - low) * (place - int(place)), EPS_FLOOR)
        assert float(eps[image]) == pytest.approx(expected, rel=1e-15 if device == "cpu" else TIE)
    near = roots(squared) <= (eps.cpu() * (1 + EPS_SLACK)).float()[:, None, None]
    valid = valid_rows(counts, features.shape[1])
    found = unpacked(words, features.shape[1])
    for image, count in enumerate(counts.tolist()):
        assert torch.equal(found[image, :count, :count], near[image, :count, :count])
    stored = clustering.distance_percentile(
        clustering.pairwise_distances(features, valid), counts, percentile
    )
    torch.testing.assert_close(eps.cpu(), stored, rtol=TIE, atol=0)


@pytest.mark.parametrize(("kind", "percentile"), CASES)
@pytest.mark.parametrize(("n", "depth"), SHAPES)
def test_eps_and_neighbours_are_those_of_all_stored_distances(
    device, monkeypatch, n, depth, kind, percentile
):
    """A small sample, which saves time here, may mislead and must not matter."""
    monkeypatch.setattr(distances, "SAMPLES", 256)
    features, counts = random_features(n, depth, kind)
    check(device, features, counts, percentile)


@pytest.mark.parametrize(
    ("start", "end"), [(1, 2), (0x7F000000, 0x7F000001), (1, distances.LAST)], ids=["below", "above", "all"]
)
def test_an_interval_that_misleads_changes_nothing(device, monkeypatch, start, end):
    """It lies far from the percentile, on either side of it, or holds every pair."""
    features, counts = random_features(63, 5, "random")

    def misleading(_grid: tuple[int, ...], *arguments: Tensor, **_options: object) -> None:
        for tensor, value in zip(arguments[2:6], (start, end, 0, 0), strict=True):
            tensor.fill_(value)

    monkeypatch.setattr(distances, "_interval", Launch(misleading))
    monkeypatch.setattr(distances, "SAMPLES", 256)
    check(device, features, counts, 25)


@pytest.mark.parametrize("capacity", [1, 40])
def test_more_pairs_than_can_be_kept_change_nothing(device, capacity):
    check(device, *random_features(63, 5, "ties"), 25, capacity)


def test_distances_around_the_smallest_eps(device):
    """The percentile falls between a distance below it and one above; all within it; and none."""
    line = torch.zeros(3, 40, 1)
    line[0, 10:, 0] = torch.arange(30) * 1e-6
    line[1, :, 0] = torch.arange(40) * 1e-8
    line[2, :, 0] = torch.arange(40) * 1e-4
    for percentile in (5, 25, 60):
        check(device, line, torch.tensor([40, 40, 40]), percentile)


def search_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[int]]:
    """What `_exact` reads: the limit of each image, -1 where it must search."""
    limits: list[int] = []
    exact = neighbours._exact

    def recording(grid: tuple[int, ...], *arguments: Tensor, **options: object) -> None:
        limits.extend(arguments[2].tolist())
        exact[grid](*arguments, **options)

    monkeypatch.setattr(neighbours, "_exact", Launch(recording))
    return lambda: limits


@pytest.mark.parametrize("percentile", [10, 25, 50, 90])
def test_one_pass_over_the_pairs_is_enough(device, monkeypatch, percentile):
    """The interval holds the percentile and not much else, or an image is searched again, by one program."""
    searched = search_of(monkeypatch)
    features, counts = random_features(300, 7, "random")
    features, counts = features[:2].to(device), counts[:2].to(device)
    scanned(features, counts, percentile)
    assert min(searched()) > 0
    interval = distances.sampled_interval(
        columns_of(features.cpu(), counts.cpu()).to(device), counts.int(), percentile, EPS_FLOOR
    )
    start, end = (int(tensor[0]) for tensor in interval[:2])
    bits = sequential(features.cpu())[0][np.triu_indices(300, 1)].view(torch.int32)
    assert ((bits >= start) & (bits < end)).float().mean() < 0.1


def test_dead_channels_are_searched_once(device, monkeypatch):
    """More than a quarter of the distances are 0: eps is the smallest, and nothing has to be found."""
    searched = search_of(monkeypatch)
    features, counts = random_features(130, 9, "dead")
    check(device, features, counts, 25)
    assert min(searched()) > 0


@triton.jit
def _places(out: tl.tensor, COUNT: tl.constexpr) -> None:
    channel = tl.arange(0, COUNT)
    word, bit = neighbours.bit_place(channel)
    tl.store(out + channel, word * 32 + bit)
    tl.store(out + COUNT + channel, neighbours.channel_at(word, bit))


def test_the_places_of_the_bits_are_one_to_one(device):
    """Within a tile of 128 channels, and back again."""
    out = torch.empty(2, 512, dtype=torch.int32, device=device)
    _places[(1,)](out, 512)
    places, channels = out.cpu()
    assert places.view(4, 128).sort(1).values.flatten().tolist() == list(range(512))
    assert channels.tolist() == list(range(512))


def test_too_many_channels_for_a_pairs_place_are_an_error():
    columns = torch.empty(1, 1, 65_536, device="meta")
    with pytest.raises(
        ValueError, match="at most 65535 channels can be clustered here, got 65536; use engine='torch'"
    ):
        neighbours.neighbours(columns, torch.empty(1, dtype=torch.int32), 25, 1e-5, 1e-6, 65_536)
