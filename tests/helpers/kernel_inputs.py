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
        return lambda *arguments: self.function(grid, *arguments)


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


def columns_of(features: Tensor, block: int) -> Tensor:
    """Features (B,N,D) transposed to (B,D,M), with zeros up to a multiple of a tile, as the kernels read them."""
    return torch.nn.functional.pad(features.mT, (0, -features.shape[1] % block)).contiguous()


def valid_rows(counts: Tensor, n: int) -> Tensor:
    """(B,n) bool: the first `counts` rows of each image."""
    return torch.arange(n) < counts[:, None]


def packed(flags: Tensor) -> Tensor:
    """Flags (B,N,N) as words (B,N,⌈N/32⌉) int32."""
    n = flags.shape[2]
    padded = torch.nn.functional.pad(flags.long(), (0, -n % 32)).unflatten(2, (-1, 32))
    return (padded << torch.arange(32)).sum(3).to(torch.int32)
