"""The filters of gradient maps, for the kernels that use them: windows, weights and borders.

PyTorch reference: `cfcam_gpu.cfcam.filtering`.

Mathematics. Each cell becomes m + Σ w·(m' - m) / Σ w over the window's cells m' (reflect-101 at the border), with
w = exp(-(dy² + dx²) / 2σ_s²) and, for the bilateral filters, times exp(-(m' - m)² / 2σ_r²), where σ_r of
`bilateral_relative` is in standard deviations of the map. Averaging differences keeps small variations of a large map.
"""

from __future__ import annotations

import triton
import triton.language as tl

#: Filters that the kernels have -> (whether the window is circular, whether there is a range term, and whether
#: its deviation is in standard deviations of the map). `none` is a window of radius 0. `upstream` runs in PyTorch.
FILTERS: dict[str, tuple[bool, bool, bool]] = {
    "bilateral": (True, True, False),
    "bilateral_relative": (True, True, True),
    "bilateral_square": (False, True, False),
    "gaussian": (False, False, False),
    "none": (False, False, False),
}


def filter_window(
    name: str, h: int, w: int, radius: int, sigma_space: float, sigma_range: float
) -> tuple[int, int, int, float, float]:
    """The arguments of the kernels that describe a filter's window: h, w, radius and the two deviations."""
    return h, w, 0 if name == "none" else radius, float(sigma_space), float(sigma_range)


@triton.jit
def filtered_at(
    values: tl.tensor,
    cell: tl.tensor,
    h: tl.tensor,
    w: tl.tensor,
    radius: tl.tensor,
    sigma_space: tl.tensor,
    sigma_range: tl.tensor,
    CIRCLE: tl.constexpr,
    RANGE: tl.constexpr,
    RELATIVE: tl.constexpr,
    CELLS: tl.constexpr,
) -> tl.tensor:
    """The filter's result at the cells (CELLS,) of a map in memory; 0 outside of it."""
    inside = cell < h * w
    if RELATIVE:
        sigma_range *= _spread_of_map(values, h * w, CELLS)
    space, scale = exponents(sigma_space, sigma_range)
    middle = tl.load(values + cell, mask=inside, other=0.0)
    y, x = cell // w, cell % w
    total, change = tl.zeros((CELLS,), tl.float32), tl.zeros((CELLS,), tl.float32)
    for dy in range(-radius, radius + 1):
        row = values + mirrored(y + dy, h) * w
        for dx in range(-radius, radius + 1):
            square = dy * dy + dx * dx
            if (not CIRCLE) or (square <= radius * radius):
                difference = tl.load(row + mirrored(x + dx, w), mask=inside, other=0.0) - middle
                weight = weight_of(difference, square, space, scale, RANGE)
                total += weight
                change += weight * difference
    return tl.where(inside, middle + change / total, 0.0)


@triton.jit
def _spread_of_map(values: tl.tensor, hw: tl.tensor, CELLS: tl.constexpr) -> tl.tensor:
    """`spread` of a map in memory, `CELLS` cells at a time."""
    lane = tl.arange(0, CELLS)
    total, largest = tl.zeros((CELLS,), tl.float32), tl.zeros((CELLS,), tl.float32)
    for start in range(0, hw, CELLS):
        part = tl.load(values + start + lane, mask=start + lane < hw, other=0.0)
        total += part
        largest = tl.maximum(largest, tl.abs(part))
    mean, largest = tl.sum(total, 0) / hw, tl.max(largest, 0)
    squares = tl.zeros((CELLS,), tl.float32)
    for start in range(0, hw, CELLS):
        part = tl.load(values + start + lane, mask=start + lane < hw, other=0.0)
        squares += _squared(part, start + lane < hw, mean, largest)
    return _root(tl.sum(squares, 0) / hw, largest)


@triton.jit
def spread(values: tl.tensor, inside: tl.tensor, hw: tl.tensor) -> tl.tensor:
    """Standard deviation of the values of a map, outside of which they are 0; 1 where it is 0."""
    mean, largest = tl.sum(values, 0) / hw, tl.max(tl.abs(values), 0)
    return _root(tl.sum(_squared(values, inside, mean, largest), 0) / hw, largest)


@triton.jit
def _squared(values: tl.tensor, inside: tl.tensor, mean: tl.tensor, largest: tl.tensor) -> tl.tensor:
    """Squared distances from the mean in units of the largest magnitude: squares of small gradients underflow."""
    scaled = (values - mean) / tl.where(largest > 0, largest, 1.0)
    return tl.where(inside, scaled * scaled, 0.0)


@triton.jit
def _root(mean_square: tl.tensor, largest: tl.tensor) -> tl.tensor:
    """The standard deviation, of which the reciprocal is finite; else 1."""
    deviation = largest * tl.sqrt(mean_square)
    return tl.where(deviation > 1e-37, deviation, 1.0)


@triton.jit
def exponents(sigma_space: tl.tensor, sigma_range: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """The factors of `weight_of`, to base 2: of a squared distance, and of a difference before it is squared."""
    log2_e = 1.4426950408889634
    return -0.5 * log2_e / (sigma_space * sigma_space), tl.sqrt(0.5 * log2_e) / sigma_range


@triton.jit
def weight_of(
    difference: tl.tensor, square: tl.tensor, space: tl.tensor, scale: tl.tensor, RANGE: tl.constexpr
) -> tl.tensor:
    """Weight of cells at a squared distance, whose values differ by `difference`."""
    exponent = square * space
    if RANGE:
        scaled = difference * scale
        exponent = exponent - scaled * scaled
    return tl.exp2(exponent)


@triton.jit
def mirrored(position: tl.tensor, size: tl.tensor) -> tl.tensor:
    """The position along an axis, mirrored at the first and the last one."""
    return (size - 1) - tl.abs((size - 1) - tl.abs(position))
