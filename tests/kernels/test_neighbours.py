"""The bit rows of the neighbours against the comparison of all stored distances."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from cfcam_gpu.config import EPS_FLOOR, EPS_SLACK
from cfcam_gpu.kernels import neighbours
from tests.helpers.kernel_inputs import (
    SHAPES,
    columns_of,
    packed,
    random_features,
    roots,
    sequential,
    valid_rows,
)


@triton.jit
def _limits(eps: tl.tensor, out: tl.tensor, count: tl.tensor, COUNT: tl.constexpr) -> None:
    index = tl.arange(0, COUNT)
    limits = neighbours.squared_limit(tl.load(eps + index, mask=index < count, other=1.0), 1.0)
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


def unpacked(words: Tensor, n: int) -> Tensor:
    """Words (B,N,W) as flags (B,N,n)."""
    return ((words[..., None].cpu() >> torch.arange(32)) & 1).flatten(2)[..., :n].bool()


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
    words, degrees = neighbours.neighbours(
        columns_of(features, 64).to(device), counts.int().to(device), eps.to(device), slack, n, 64
    )
    valid = valid_rows(counts, n)
    expected = separate <= (eps * (1 + slack)).float()[:, None, None]
    expected &= valid[:, :, None] & valid[:, None, :]
    assert torch.equal(unpacked(words, n), expected)
    assert torch.equal(words.cpu(), packed(expected))
    assert torch.equal(degrees.cpu().long(), expected.sum(2))
