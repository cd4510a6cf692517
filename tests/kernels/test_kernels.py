"""Each Triton kernel against its torch reference, and all of them together against the reference engine.

On a machine without a GPU the kernels run under Triton's interpreter and are compiled, not run, for
one; with a GPU the same tests run them compiled.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cfcam_gpu import PRESETS, CFCAMConfig
from cfcam_gpu.cfcam import clustering, filtering, weighting
from cfcam_gpu.config import EPS_FLOOR, EPS_SLACK
from cfcam_gpu.engines import triton_engine
from cfcam_gpu.kernels import cluster_filter, components, distances, neighbours, weighted_sum
from tests.helpers.features import assert_equivalent, blobs
from tests.helpers.tolerances import FILTER, TIE

#: float32 sums over some hundred channels in another order, relative to the largest value.
SUM = 1e-5

SHAPES = [(1, 49), (2, 1), (3, 81), (63, 45), (130, 1)]


@pytest.fixture(scope="module")
def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def random_features(n: int, depth: int, kind: str) -> tuple[Tensor, Tensor]:
    """Features (3,n,depth) and counts: one image full, one short of a row, one with a row or two.

    `ties`: small integers; `dead`: half of the rows are zero.
    """
    generator = torch.Generator().manual_seed(100 * n + depth)
    features = torch.randn(3, n, depth, generator=generator)
    if kind == "ties":
        features = torch.randint(0, 3, (3, n, depth), generator=generator).float()
    if kind == "dead":
        features[:, torch.rand(n, generator=generator) < 0.6] = 0
    return features, torch.tensor([n, max(n - 1, 0), min(n, 2)])


def sequential(features: Tensor) -> Tensor:
    """Squared distances (B,N,N) float32, summed over the features one after the other as the kernels do."""
    total = features.new_zeros(*features.shape[:2], features.shape[1])
    for column in features.unbind(2):
        difference = column[:, :, None] - column[:, None, :]
        total = total + difference * difference
    return total


def roots(squared: Tensor) -> Tensor:
    """Correctly rounded, as a GPU's are; torch's on a CPU may be one unit off."""
    return torch.from_numpy(np.sqrt(squared.numpy()))


def valid_rows(counts: Tensor, n: int) -> Tensor:
    return torch.arange(n) < counts[:, None]


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
    found, eps = distances.distance_percentile(features.to(device), counts.to(device), percentile, EPS_FLOOR)
    squared = sequential(features)
    exact = {"rtol": 0 if device == "cpu" else TIE, "atol": 0}
    for image, count in enumerate(counts.tolist()):
        pairs = np.sort(squared[image, :count, :count].numpy()[np.triu_indices(count, 1)])
        if not len(pairs):
            assert found[image].tolist() == [0, 0]
            assert float(eps[image]) == EPS_FLOOR
            continue
        low = percentile / 100 * (2 * len(pairs) - 1)
        ranks = [int(low) // 2, min(int(low) + 1, 2 * len(pairs) - 1) // 2]
        torch.testing.assert_close(found[image].cpu(), torch.from_numpy(pairs[ranks]), **exact)
    valid = valid_rows(counts, n)
    stored = clustering.distance_percentile(
        clustering.pairwise_distances(features, valid), counts, percentile
    )
    torch.testing.assert_close(eps.cpu(), stored, rtol=TIE, atol=0)


@pytest.mark.parametrize("block", [32, 64, 128])
def test_tiles_of_any_size_give_the_same_bits(device, block):
    features, counts = random_features(130, 3, "random")
    features, counts = features.to(device), counts.to(device)
    found, eps = distances.distance_percentile(features, counts, 25, EPS_FLOOR, block)
    plain, plain_eps = distances.distance_percentile(features, counts, 25, EPS_FLOOR)
    assert torch.equal(found, plain)
    assert torch.equal(eps, plain_eps)
    for one, other in zip(
        neighbours.neighbours(features, counts, eps, EPS_SLACK, block),
        neighbours.neighbours(features, counts, eps, EPS_SLACK),
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
    expected, _ = distances.distance_percentile(features, counts, 25, EPS_FLOOR)

    def misleading(grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(columns: Tensor, counts: Tensor, ranks: Tensor, start: Tensor, shift: Tensor, *_: int):
            start.copy_(torch.full_like(start, low, dtype=torch.float32).view(torch.int32))
            shift.fill_(width)

        return launch

    monkeypatch.setattr(
        distances, "_sample", type("", (), {"__getitem__": lambda _, grid: misleading(grid)})()
    )
    found, _ = distances.distance_percentile(features, counts, 25, EPS_FLOOR)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("percentile", [10, 25, 50, 90])
def test_the_sample_leaves_few_pairs_to_the_first_pass(device, monkeypatch, percentile):
    """Its interval holds the rank and not much else, or a pass over all pairs is wasted."""
    features, counts = random_features(130, 7, "random")
    features, counts = features[:1].to(device), counts[:1].to(device)
    intervals = []
    count = distances._count

    def recording(grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(columns: Tensor, counts: Tensor, low: Tensor, shift: Tensor, *rest: object) -> None:
            intervals.append((int(low), int(shift)))
            count[grid](columns, counts, low, shift, *rest)

        return launch

    monkeypatch.setattr(distances, "_count", type("", (), {"__getitem__": lambda _, grid: recording(grid)})())
    found, _ = distances.distance_percentile(features, counts, percentile, EPS_FLOOR)
    low, width = intervals[0]
    rank_bits = int(found[0, 0].view(torch.int32))
    assert 0 <= (rank_bits - low) >> width < 2**distances.LOG2_BINS
    bits = sequential(features.cpu())[0][np.triu_indices(130, 1)].view(torch.int32).long()
    assert (((bits - low) >> width) // 2**distances.LOG2_BINS == 0).float().mean() < 0.15
    assert -1 in [shift for _, shift in intervals], "one pass more than planned"


def test_the_squared_limit_is_the_comparison_of_roots():
    """d² <= limit holds just where the float32 root of d² is at most t."""
    t = 10 ** (12 * torch.rand(20_000, generator=torch.Generator().manual_seed(0)) - 5)
    t = torch.cat([t, torch.tensor([EPS_FLOOR, 1.0, 2.0, 0.5, 3.0])])
    limit = neighbours.squared_limit(t)
    assert (roots(limit) <= t).all()
    assert (roots(torch.nextafter(limit, torch.full_like(t, torch.inf))) > t).all()


def unpacked(words: Tensor, n: int) -> Tensor:
    """Words (B,N,W) as flags (B,N,n)."""
    return ((words[..., None].cpu() >> torch.arange(32)) & 1).flatten(2)[..., :n].bool()


def packed(flags: Tensor) -> Tensor:
    """Flags (B,N,N) as words (B,N,⌈N/32⌉) int32."""
    n = flags.shape[2]
    padded = torch.nn.functional.pad(flags.long(), (0, -n % 32)).unflatten(2, (-1, 32))
    return (padded << torch.arange(32)).sum(3).to(torch.int32)


@pytest.mark.parametrize("kind", ["random", "ties", "dead"])
@pytest.mark.parametrize(("n", "depth"), SHAPES)
def test_neighbours_are_those_within_eps(device, n, depth, kind):
    """eps is the distance of one pair, as half of the time in use; rows without a channel have no bit.

    Where the sums are exact, among ties, also without the slack that keeps rounding from deciding.
    """
    slack = 0.0 if kind == "ties" else EPS_SLACK
    features, counts = random_features(n, depth, kind)
    separate = roots(sequential(features))
    eps = separate.flatten(1).quantile(0.3, dim=1, interpolation="nearest").double().clamp_min(EPS_FLOOR)
    words, degrees = neighbours.neighbours(features.to(device), counts.to(device), eps.to(device), slack)
    valid = valid_rows(counts, n)
    expected = separate <= (eps * (1 + slack)).float()[:, None, None]
    expected &= valid[:, :, None] & valid[:, None, :]
    assert torch.equal(unpacked(words, n), expected)
    assert torch.equal(words.cpu(), packed(expected))
    assert torch.equal(degrees.cpu().long(), expected.sum(2))


def scan_bits(device: str, adjacency: Tensor, minimum: Tensor, rows: int | None = None) -> list[Tensor]:
    degrees = adjacency.sum(2).int()
    found = components.dbscan(packed(adjacency).to(device), degrees.to(device), minimum.to(device), rows)
    return [tensor.cpu() for tensor in found]


@pytest.mark.parametrize(("n", "seed"), [(1, 0), (2, 1), (3, 0), (32, 1), (63, 0), (63, 2), (130, 1)])
def test_components_are_dbscans(device, n, seed):
    """Points on a small grid: contested border points, chains, duplicates, noise and several clusters."""
    generator = torch.Generator().manual_seed(seed)
    side = 2 + int((2 * n) ** 0.5)
    points = torch.randint(0, side, (2, n, 2), generator=generator).float()
    separate, eps = torch.cdist(points, points), torch.tensor([1.0, 1.5], dtype=torch.float64)
    minimum = torch.tensor([2 + seed % 3, 2 + seed])
    expected = clustering.dbscan(separate, eps, minimum)
    adjacency = separate <= (eps * (1 + EPS_SLACK)).float()[:, None, None]
    for found, wanted in zip(scan_bits(device, adjacency, minimum, rows=8), expected, strict=True):
        assert torch.equal(found, wanted)
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
    minimum = torch.tensor([2])
    separate = torch.where(adjacency, 0.0, 2.0)
    expected = clustering.dbscan(separate, torch.ones(1, dtype=torch.float64), minimum)
    found = scan_bits(device, adjacency, minimum, rows)
    assert torch.equal(found[0], expected[0])
    assert int(found[1]) == int(expected[1]) == (n // 2 if kind == "pairs" else 1)


@pytest.mark.parametrize(
    ("shape", "scale"), [((1, 1), 0.3), ((1, 6), 0.3), ((5, 9), 1e-6), ((5, 9), 50.0), ((7, 7), 0.3)]
)
@pytest.mark.parametrize("name", cluster_filter.FILTERS)
def test_pooled_weights_are_those_of_the_filtered_mean_maps(device, name, shape, scale):
    """Two targets, images with no, one and several clusters, a cluster of one channel."""
    config = CFCAMConfig(filter=name, sigma_space=1.0, sigma_range=0.2)
    gradients = scale * torch.randn(3, 2, 11, *shape, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor(
        [[-2, -1] * 5 + [-1], [0] * 9 + [-1, -2], [0, 1, 2, 1, -1, -2, 0, 1, 0, 1, 0]], dtype=torch.int64
    )
    n_clusters = torch.tensor([0, 1, 3])
    pooled = cluster_filter.pooled_weights(
        gradients.to(device),
        labels.to(device),
        n_clusters.to(device),
        5,
        name,
        config.radius(*shape),
        config.sigma_space,
        config.sigma_range,
        channels=4 if shape == (5, 9) else None,
    )
    means = weighting.cluster_means(gradients, labels, 5)
    expected = filtering.filter_maps(means.flatten(0, 2), config).mean((1, 2)).view(3, 2, 5)
    atol = FILTER * float(means.abs().max())
    torch.testing.assert_close(pooled.cpu(), expected, rtol=0, atol=atol)
    assert not pooled[0].any()
    assert not pooled[2, :, 3:].any()


def test_pooled_weights_of_a_large_map(device):
    gradients = torch.randn(1, 1, 3, 56, 56, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([[0, -1, 0]])
    config = CFCAMConfig(sigma_range=1.0, diameter=5)
    pooled = cluster_filter.pooled_weights(
        gradients.to(device), labels.to(device), torch.tensor([1]).to(device), 1, "bilateral", 2, 5.0, 1.0
    )
    means = weighting.cluster_means(gradients, labels, 1)[0, 0]
    expected = filtering.filter_maps(means, config).mean()
    torch.testing.assert_close(
        pooled.cpu()[0, 0, 0], expected, rtol=0, atol=FILTER * float(means.abs().max())
    )


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((1, 1, 1, 1), torch.float32),
        ((2, 130, 7, 7), torch.float32),
        ((1, 260, 3, 14), torch.bfloat16),
        ((2, 63, 5, 9), torch.float16),
    ],
)
def test_weighted_sum_is_the_activation_map(device, shape, dtype):
    """float16 and bfloat16 activations are summed in float32."""
    generator = torch.Generator().manual_seed(2)
    activations = torch.randn(shape, generator=generator).to(dtype)
    weights = torch.randn(shape[0], 3, shape[1], generator=generator)
    grid = weighted_sum.weighted_sum(activations.to(device), weights.to(device)).cpu()
    expected = weighting.activation_map(activations.float(), weights)
    assert grid.dtype == torch.float32
    torch.testing.assert_close(grid, expected, rtol=0, atol=SUM * max(1.0, float(expected.max())))
    small = weighted_sum.weighted_sum(activations.to(device), weights.to(device), channels=16, cells=16)
    torch.testing.assert_close(small.cpu(), expected, rtol=0, atol=SUM * max(1.0, float(expected.max())))


def test_weighted_sum_does_not_hide_nan(device):
    activations = torch.tensor([1.0, torch.nan]).view(1, 1, 1, 2).to(device)
    grid = weighted_sum.weighted_sum(activations, -torch.ones(1, 1, 1, device=device)).flatten()
    assert grid[0] == 0
    assert grid[1].isnan()


class TritonRun:
    """The engine's `run` where the comparison with the reference expects an engine."""

    def __init__(self, device: str) -> None:
        self.device = device

    def explain(self, activations: Tensor, gradients: Tensor, size: tuple[int, int], config: CFCAMConfig):
        single = gradients.ndim == 4
        g = gradients[:, None] if single else gradients
        a, g = activations.to(self.device), g.to(self.device)
        maps = triton_engine.run(a, g, size, config)
        self.clusters = maps.clusters
        axis = 0 if single else slice(None)
        return SimpleNamespace(
            **{name: value.cpu() for name, value in vars(self.clusters).items()},
            grid=maps.grid[:, axis].cpu(),
            heatmap=maps.heatmap[:, axis].cpu(),
            peak=maps.peak[:, axis].cpu(),
            blank=(maps.grid.amax((2, 3)) <= 0)[:, axis].cpu(),
        )


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("preset", PRESETS)
def test_the_engine_agrees_with_the_reference(device, preset, batch):
    activations, gradients = blobs(batch, 63, 3, 5, clusters=3, seed=batch)
    seen = assert_equivalent(TritonRun(device), activations, gradients, CFCAMConfig.preset(preset), (20, 18))
    assert seen["label differences"] == 0


@pytest.mark.parametrize("name", filtering.FILTERS)
def test_the_engine_agrees_with_the_reference_for_each_filter_and_several_clusters(device, name):
    activations, gradients = blobs(3, 63, 4, 5, clusters=4)
    config = CFCAMConfig(
        filter=name, sigma_range=0.01, diameter=3, eps_percentile=10, min_samples_fraction=0.03
    )
    run = TritonRun(device)
    assert_equivalent(run, activations, torch.stack([gradients, -gradients], 1), config, (14, 14))
    assert int(run.clusters.n_clusters.min()) > 1


@pytest.mark.parametrize(
    ("shape", "levels"), [((2, 1, 3, 3), 2), ((2, 2, 1, 1), 4), ((1, 3, 1, 4), 1), ((3, 9, 3, 3), 2)]
)
def test_the_engine_agrees_on_awkward_shapes_and_ties(device, shape, levels):
    """One channel, one cell, all channels equal or dead, most distances equal to eps."""
    generator = torch.Generator().manual_seed(sum(shape) + levels)
    activations = torch.randint(0, levels, shape, generator=generator).float()
    gradients = torch.randn(shape, generator=generator)
    for preset in PRESETS:
        assert_equivalent(TritonRun(device), activations, gradients, CFCAMConfig.preset(preset), (9, 7))


def test_two_runs_are_identical_and_images_do_not_depend_on_their_batch(device):
    activations, gradients = blobs(3, 40, 3, 5, clusters=3)
    run = TritonRun(device)
    config = CFCAMConfig(diameter=3, eps_percentile=10, min_samples_fraction=0.03)
    first, second = (run.explain(activations, gradients, (6, 10), config) for _ in range(2))
    alone = run.explain(activations[1:2], gradients[1:2], (6, 10), config)
    for name, value in vars(first).items():
        assert torch.equal(value, getattr(second, name)), name
    assert torch.equal(alone.labels[0], first.labels[1])
    assert alone.eps[0] == first.eps[1]
    torch.testing.assert_close(alone.heatmap[0], first.heatmap[1], rtol=0, atol=1e-6)


class Watch(TorchDispatchMode):
    """The operations called and the size of the largest floating-point tensor they gave."""

    def __init__(self) -> None:
        super().__init__()
        self.called: set[str] = set()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.called.add(str(func).split(".")[1])
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                self.largest = max(self.largest, tensor.numel())
        return result


def test_nothing_is_read_back_and_no_distance_matrix_is_made(device):
    """Reading a value waits for the GPU, and B×N×N floats would not fit with a large batch."""
    activations, gradients = blobs(2, 130, 3, 3, clusters=3)
    a, g = activations.to(device), gradients[:, None].to(device)
    with Watch() as watch:
        triton_engine.run(a, g, (6, 6), CFCAMConfig(diameter=3))
    assert not watch.called & {
        "_local_scalar_dense",
        "nonzero",
        "equal",
        "is_nonzero",
        "masked_select",
        "unique",
    }
    assert {"sort", "zeros", "stack"} & watch.called, "the watch saw nothing"
    assert watch.largest < 2 * 97 * 97


def test_the_engine_says_why_it_can_or_cannot_run(monkeypatch):
    ok, reason = triton_engine.available("cuda")
    assert ok
    assert reason.startswith("triton 3")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert "interpreter" in triton_engine.available("cpu")[1]
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert triton_engine.available("cpu") == (
        False,
        "needs a GPU; for tests on the CPU set TRITON_INTERPRET=1 before Python starts",
    )
    monkeypatch.setitem(sys.modules, "triton", None)
    ok, reason = triton_engine.available("cuda")
    assert not ok
    assert "pip install torch triton" in reason


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from cfcam_gpu.kernels import cluster_filter, components, distances, neighbours, weighted_sum

POINTERS = {
    "columns": "*fp32", "statistics": "*fp32", "limits": "*fp32", "gradients": "*fp32", "pooled": "*fp32",
    "weights": "*fp32", "grid": "*fp32", "activations": "*bf16", "sigma_space": "fp32", "sigma_range": "fp32",
    "counts": "*i64", "ranks": "*i64", "minimum": "*i64", "labels": "*i64", "n_clusters": "*i64",
    **dict.fromkeys(["low", "shift", "below", "bins", "above", "words", "degrees", "frontiers"], "*i32"),
}
search = dict(LOG2_BINS=distances.LOG2_BINS, LAST=distances.LAST)
kernels = [
    (distances._sample, dict(SAMPLES=distances.SAMPLES, **search)),
    (distances._count, dict(BLOCK=64, **search)),
    (distances._narrow, search),
    (neighbours._neighbours, dict(BLOCK=64)),
    (neighbours._neighbours, dict(BLOCK=32, n=1, n_words=1, depth=1)),
    (components._dbscan, dict(WORDS=64, ROWS=128)),
    (components._dbscan, dict(WORDS=1, ROWS=1, n=1, n_words=1)),
    (cluster_filter._pooled, dict(CIRCLE=True, RANGE=True, CELLS=64, CHANNELS=64)),
    (cluster_filter._pooled, dict(CIRCLE=False, RANGE=False, CELLS=4096, CHANNELS=1)),
    (cluster_filter._pooled, dict(CIRCLE=False, RANGE=True, CELLS=16, CHANNELS=1, c=1, h=1, w=1)),
    (weighted_sum._weighted_sum, dict(CHANNELS=128, CELLS=32)),
]
for kernel, constants in kernels:
    signature = {name: "constexpr" if name in constants else POINTERS.get(name, "i32") for name in kernel.arg_names}
    source = ASTSource(kernel, signature, constexprs=constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    # The H100 has 227 KB of shared memory a block.
    assert compiled.metadata.shared <= 227 * 1024, kernel
    print(kernel.__name__, len(compiled.asm["cubin"]))
"""


def test_every_kernel_compiles_for_an_h100(tmp_path):
    """The interpreter accepts what the compiler does not; compiling needs no GPU."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", COMPILE], capture_output=True, text=True, check=False, env=environment
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert len(run.stdout.splitlines()) == 11
