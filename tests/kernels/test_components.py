"""The clusters from bit rows against the batched DBSCAN in PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cfcam_gpu.cfcam import clustering
from cfcam_gpu.config import EPS_SLACK
from cfcam_gpu.kernels import components
from tests.helpers.kernel_inputs import packed


def scan_bits(device: str, adjacency: Tensor, minimum: int, rows: int | None = None) -> list[Tensor]:
    """Labels (B,N) and number of clusters (B,); the rows are channels in an order of their own."""
    b, n = adjacency.shape[:2]
    order = torch.stack(
        [torch.randperm(n + 2, generator=torch.Generator().manual_seed(one))[:n] for one in range(b)]
    )
    labels = torch.full((b, n + 2), -1, device=device)
    n_clusters = components.dbscan(
        packed(adjacency).to(device),
        torch.full((b,), n, dtype=torch.int32, device=device),
        (minimum + 0.5) / n,
        order.int().to(device),
        labels,
        rows,
    )
    return [labels.cpu().gather(1, order), n_clusters.cpu()]


@pytest.mark.parametrize(("n", "seed"), [(1, 0), (2, 1), (3, 0), (32, 1), (63, 0), (63, 2), (130, 1)])
def test_components_are_dbscans(device, n, seed):
    """Points on a small grid: contested border points, chains, duplicates, noise and several clusters."""
    generator = torch.Generator().manual_seed(seed)
    side = 2 + int((2 * n) ** 0.5)
    points = torch.randint(0, side, (2, n, 2), generator=generator).float()
    separate, eps = torch.cdist(points, points), torch.tensor([1.0, 1.5], dtype=torch.float64)
    minimum = 2 + seed
    expected = clustering.dbscan(separate, eps, torch.tensor([minimum] * 2))
    adjacency = separate <= (eps * (1 + EPS_SLACK)).float()[:, None, None]
    for tensor, wanted in zip(scan_bits(device, adjacency, minimum, rows=8), expected, strict=True):
        assert torch.equal(tensor, wanted)
    assert n < 63 or int(expected[1].max()) > 2


@pytest.mark.parametrize("rows", [4, None])
@pytest.mark.parametrize("kind", ["shuffled path", "star", "pairs"])
def test_components_of_long_chains_and_of_many_clusters(device, kind, rows):
    n = 40
    order = np.random.default_rng(0).permutation(n)
    parent = {"star": np.zeros(n, int)}.get(kind, np.arange(n) - 1)
    adjacency = torch.eye(n, dtype=torch.bool)[None]
    for child in range(1, n, 2 if kind == "pairs" else 1):
        adjacency[0, order[child], order[parent[child]]] = adjacency[
            0, order[parent[child]], order[child]
        ] = True
    separate = torch.where(adjacency, 0.0, 2.0)
    expected = clustering.dbscan(separate, torch.ones(1, dtype=torch.float64), torch.tensor([2]))
    labels, n_clusters = scan_bits(device, adjacency, 2, rows)
    assert torch.equal(labels, expected[0])
    assert int(n_clusters) == int(expected[1]) == (n // 2 if kind == "pairs" else 1)
