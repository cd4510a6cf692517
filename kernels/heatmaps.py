"""Heatmaps from grids: upsampled, divided by their maximum, and blank for images that cannot be explained.

PyTorch reference: `cfcam_gpu.cfcam.maps.upsample_and_normalise` and `cfcam_gpu.explanation.without_invalid`.

Mathematics. Bilinear interpolation with align_corners=False: output o lies at s = (o + 1/2)·h/H - 1/2, at least
0. Between two cells the map is linear along each axis, so that its maximum over the outputs is at an output
that comes first or last between the cells: about 2h × 2w of the H × W outputs.

Least work: 4·H·W bytes written for each map.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Number of outputs that are computed at once.
_OUTPUTS = 1024

#: Products and sums are rounded one by one, in both kernels, and quotients as IEEE asks (`tl.div_rn`; `/` may be off by
#: two units in the last place). The largest output is then the peak exactly, so that the heatmap's maximum is 1 and
#: not the number below; and outputs lie where PyTorch has them: one unit of h/H moves those of a map of 14 x 14 by
#: 1e-6 of a cell.
AS_WRITTEN = {"enable_fp_fusion": False}


def finish(
    grid: Tensor, status: Tensor, size: tuple[int, int], not_finite: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Heatmaps (B,K,H,W) float32, their maxima before the division (B,K), and which maps are blank (B,K) bool.

    A map with NaN or Inf gives its image the status `not_finite`, unless it has another. The grids and heatmaps
    of images with a status are set to 0.

    Launches: one program for each image, and one for each block of outputs of a map.

    Args:
        grid: (B,K,h,w) float32, not negative, contiguous; changed.
        status: (B,) int64; changed.
        size: (H,W).
        not_finite: status of an image with NaN or Inf in a map.
    """
    b, k, h, w = grid.shape
    heatmap = torch.empty(b, k, *size, device=grid.device)
    peak = torch.empty(b, k, device=grid.device)
    blank = torch.empty(b, k, dtype=torch.bool, device=grid.device)
    block = min(_OUTPUTS, triton.next_power_of_2(max(16, 9 * h * w)))
    _peaks[(b,)](grid, status, peak, blank, k, h, w, *size, not_finite, block, **AS_WRITTEN)
    blocks = triton.cdiv(size[0] * size[1], _OUTPUTS)
    _heatmaps[(b * k * blocks,)](grid, peak, heatmap, h, w, *size, blocks, _OUTPUTS, **AS_WRITTEN)
    return heatmap, peak, blank


@triton.jit
def _interpolated(
    grid: tl.tensor,
    y: tl.tensor,
    x: tl.tensor,
    h: tl.tensor,
    w: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    mask: tl.tensor,
) -> tl.tensor:
    """The values of a grid (h,w) at the outputs (y,x) of a map (height,width)."""
    top, down = _place(y, h, height)
    left, right = _place(x, w, width)
    below, beside = tl.minimum(top + 1, h - 1), tl.minimum(left + 1, w - 1)
    first = tl.load(grid + top * w + left, mask=mask, other=0.0) * (1 - right)
    first += tl.load(grid + top * w + beside, mask=mask, other=0.0) * right
    second = tl.load(grid + below * w + left, mask=mask, other=0.0) * (1 - right)
    second += tl.load(grid + below * w + beside, mask=mask, other=0.0) * right
    return first * (1 - down) + second * down


@triton.jit
def _place(output: tl.tensor, cells: tl.tensor, outputs: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """The cell before an output along one axis, and the output's distance from it, 0 to 1."""
    scale = tl.div_rn(cells * 1.0, outputs * 1.0)
    place = tl.maximum((output.to(tl.float32) + 0.5) * scale - 0.5, 0.0)
    cell = tl.minimum(place.to(tl.int32), cells - 1)
    return cell, place - cell.to(tl.float32)


@triton.jit
def _near_border(index: tl.tensor, cells: tl.tensor, outputs: tl.tensor) -> tl.tensor:
    """The output before, at or after the first one past the centre of cell index // 3."""
    scale = tl.div_rn(outputs * 1.0, cells * 1.0)
    first = tl.ceil((index // 3).to(tl.float32) * scale + 0.5 * scale - 0.5).to(tl.int32)
    return tl.minimum(tl.maximum(first + index % 3 - 1, 0), outputs - 1)


@triton.jit
def _peaks(
    grid: tl.tensor,
    status: tl.tensor,
    peaks: tl.tensor,
    blanks: tl.tensor,
    k: tl.tensor,
    h: tl.tensor,
    w: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    NOT_FINITE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Status, maxima and blank maps of one image; its grids are set to 0 where it has a status."""
    image = tl.program_id(0).to(tl.int64)
    hw = h * w
    place = tl.arange(0, BLOCK)
    code = tl.load(status + image)
    grids = grid + image * k * hw
    finite = tl.full((), 1, tl.int32)
    for start in range(0, k * hw, BLOCK):
        values = tl.load(grids + start + place, mask=start + place < k * hw, other=0.0)
        finite = tl.minimum(finite, tl.min((values < float("inf")).to(tl.int32), 0))
    code = tl.where((code == 0) & (finite == 0), NOT_FINITE, code)
    tl.store(status + image, code)
    for target in range(k):
        one = grids + target * hw
        highest, peak = tl.full((), 0.0, tl.float32), tl.full((), 0.0, tl.float32)
        for start in range(0, hw, BLOCK):
            values = tl.load(one + start + place, mask=start + place < hw, other=0.0)
            highest = tl.maximum(highest, tl.max(values, 0))
        for start in range(0, 9 * hw, BLOCK):
            point = start + place
            y, x = _near_border(point // (3 * w), h, height), _near_border(point % (3 * w), w, width)
            values = _interpolated(one, y, x, h, w, height, width, point < 9 * hw)
            peak = tl.maximum(peak, tl.max(values, 0))
        tl.store(blanks + image * k + target, (highest <= 0) | (code != 0))
        tl.store(peaks + image * k + target, tl.where(code != 0, 0.0, peak))
    if code != 0:
        for start in range(0, k * hw, BLOCK):
            tl.store(grids + start + place, 0.0, mask=start + place < k * hw)


@triton.jit
def _heatmaps(
    grid: tl.tensor,
    peaks: tl.tensor,
    heatmaps: tl.tensor,
    h: tl.tensor,
    w: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    blocks: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """One block of outputs of one map."""
    map_index = (tl.program_id(0) // blocks).to(tl.int64)
    point = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = point < height * width
    peak = tl.load(peaks + map_index)
    values = _interpolated(
        grid + map_index * h * w, point // width, point % width, h, w, height, width, inside
    )
    # Rounding may put a value between two outputs above both.
    values = tl.minimum(tl.div_rn(values, tl.where(peak > 0, peak, 1.0)), 1.0)
    values = tl.where(peak > 0, values, 0.0)
    tl.store(heatmaps + map_index * height * width + point, values, mask=inside)
