"""Which channels lie within eps of each other, one bit a pair, and how many.

PyTorch reference: `cfcam_gpu.cfcam.clustering.pairwise_distances` and the comparison in `dbscan`.

Mathematics. Channels i and j are neighbours when √d² ≤ t, both in float32, with the d² of
`distances.squared_distances` and t = eps·(1 + slack) rounded to float32. The kernel compares
d² ≤ `squared_limit`, the largest float32 whose correctly rounded square root is at most t. This is
the same comparison without a square root for each pair.

Least work: 2·D operations for each of N(N+1)/2 pairs; N²/8 bytes written for each image.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .distances import squared_distances, tile_columns, tile_pair, tile_pairs, tile_rows


def neighbours(
    columns: Tensor, counts: Tensor, eps: Tensor, slack: float, n: int, block: int
) -> tuple[Tensor, Tensor]:
    """Each channel's neighbours, itself included, as a row of bits, and their number.

    Launch: a grid (B · pairs of tiles); the tiles above the diagonal also write their mirror images.

    Args:
        columns: (B,D,M) float32, finite: the features of the channels, transposed as `channels.columns` does.
        counts: (B,) int32, numbers of channels.
        eps: (B,) float64, positive.
        slack: a neighbour may lie this much further away than eps, relative to eps.
        n: N, the number of rows of each image.
        block: number of rows and of columns of a tile, a power of two from 32.

    Returns:
        words (B,N,⌈N/32⌉) int32, channel j at bit j % 32 of word j // 32; degrees (B,N) int32.
        Both are zero where an image has no channel.
    """
    b, depth, padded = columns.shape
    n_words = -(-n // 32)
    zeros = columns.new_zeros(b * n * (n_words + 1), dtype=torch.int32)
    words, degrees = zeros[: b * n * n_words].view(b, n, n_words), zeros[b * n * n_words :].view(b, n)
    pairs = tile_pairs(padded // block)
    _neighbours[(b * pairs,)](
        columns, counts, eps, words, degrees, n, n_words, pairs, padded, depth, block, 1 + slack
    )
    return words, degrees


@triton.jit
def squared_limit(eps: tl.tensor, FACTOR: tl.constexpr) -> tl.tensor:
    """The largest float32 whose correctly rounded square root is at most t = eps · FACTOR, rounded to float32.

    eps is float64 and positive. The square root of x rounds to t or below when x < m², with m half way
    from t to the next float. m has 25 bits, so m² is exact in float64 and never a float32.
    """
    t = (eps * FACTOR).to(tl.float32)
    above = (t.to(tl.int32, bitcast=True) + 1).to(tl.float32, bitcast=True)
    middle = (t.to(tl.float64) + above.to(tl.float64)) * 0.5
    square = middle * middle
    rounded = square.to(tl.float32)
    before = (rounded.to(tl.int32, bitcast=True) - 1).to(tl.float32, bitcast=True)
    return tl.where(rounded.to(tl.float64) > square, before, rounded)


@triton.jit
def _neighbours(
    columns: tl.tensor,
    counts: tl.tensor,
    eps: tl.tensor,
    words: tl.tensor,
    degrees: tl.tensor,
    n: tl.tensor,
    n_words: tl.tensor,
    pairs: tl.tensor,
    padded: tl.tensor,
    depth: tl.tensor,
    BLOCK: tl.constexpr,
    FACTOR: tl.constexpr,
) -> None:
    """Words and degrees of a tile, and of its mirror image below the diagonal."""
    row, column = tile_pair(tl.program_id(0) % pairs)
    image = (tl.program_id(0) // pairs).to(tl.int64)
    count = tl.load(counts + image)
    if column * BLOCK < count:
        i, j = tile_rows(row, BLOCK), tile_columns(column, BLOCK)
        squared = squared_distances(columns + image * depth * padded, i, j, padded, depth, BLOCK)
        limit = squared_limit(tl.load(eps + image), FACTOR)
        near = ((squared <= limit) & (i < count) & (j < count)).to(tl.int32)
        near = tl.reshape(tl.permute(near, (0, 2, 1, 3)), (BLOCK, BLOCK))
        image_words, image_degrees = words + image * n * n_words, degrees + image * n
        _write(near, row, column, image_words, image_degrees, n, n_words, BLOCK)
        if row < column:
            _write(tl.trans(near), column, row, image_words, image_degrees, n, n_words, BLOCK)


@triton.jit
def _write(
    near: tl.tensor,
    row: tl.tensor,
    column: tl.tensor,
    words: tl.tensor,
    degrees: tl.tensor,
    n: tl.tensor,
    n_words: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """Stores a tile's flags (BLOCK,BLOCK) as words of one image and adds them to its degrees."""
    i = row * BLOCK + tl.arange(0, BLOCK)
    word = column * (BLOCK // 32) + tl.arange(0, BLOCK // 32)
    packed = tl.sum(tl.reshape(near, (BLOCK, BLOCK // 32, 32)) << tl.arange(0, 32)[None, None, :], 2)
    inside = (i[:, None] < n) & (word[None, :] < n_words)
    tl.store(words + i[:, None] * n_words + word[None, :], packed, mask=inside)
    tl.atomic_add(degrees + i, tl.sum(near, 1), mask=i < n, sem="relaxed")
