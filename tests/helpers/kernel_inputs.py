"""Inputs of the Triton kernels, and their steps in plain PyTorch and NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

#: (channels, features) of the images: one channel, one feature, and sizes around 32, 64 and 128.
SHAPES = [(1, 49), (2, 1), (3, 81), (63, 45), (130, 1)]


class Launch:
    """A function in the place of a kernel: `kernel[grid](...)` calls it with the grid and the arguments."""

    def __init__(self, function: Callable[..., None]) -> None:
        self.function = function

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *arguments, **options: self.function(grid, *arguments, **options)


def random_features(n: int, depth: int, kind: str) -> tuple[Tensor, Tensor]:
    """Features (3,n,depth) of three images, and their numbers of channels: n, n - 1 and at most 2.

    Args:
        n: number of rows.
        depth: number of features of a row.
        kind: `random`; `ties`: small integers, so that many distances are equal; `dead`: more than half of
            the rows are zero.
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
    """Square roots, correctly rounded as on a GPU; PyTorch's on a CPU may be one unit off."""
    return torch.from_numpy(np.sqrt(squared.numpy()))


def columns_of(features: Tensor, counts: Tensor) -> Tensor:
    """Features (B,N,D) transposed to (B,D,M) as the kernels read them, with NaN where there is no channel."""
    rows = torch.where(valid_rows(counts, features.shape[1])[..., None], features, torch.nan)
    return torch.nn.functional.pad(rows.mT, (0, -features.shape[1] % 128), value=torch.nan).contiguous()


def valid_rows(counts: Tensor, n: int) -> Tensor:
    """(B,n) bool: the first `counts` rows of each image."""
    return torch.arange(n) < counts[:, None]


def packed(flags: Tensor) -> Tensor:
    """Flags (B,N,N) as words (B,M,M/32) int32, in the order of `neighbours.bit_place`."""
    n = flags.shape[2]
    padded = torch.nn.functional.pad(flags.long(), (0, -n % 128, 0, -n % 128))
    in_order = padded.unflatten(2, (-1, 8, 16)).transpose(3, 4).flatten(2).unflatten(2, (-1, 32))
    return (in_order << torch.arange(32)).sum(3).to(torch.int32)


def unpacked(words: Tensor, n: int) -> Tensor:
    """Words (B,M,M/32) as flags (B,n,n)."""
    bits = ((words[..., None].cpu() >> torch.arange(32)) & 1).flatten(2)
    return bits.unflatten(2, (-1, 16, 8)).transpose(3, 4).flatten(2)[:, :n, :n].bool()
