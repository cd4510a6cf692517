"""Filters of volumes, cell by cell."""

from __future__ import annotations

import torch
from torch import Tensor

from cfcam_gpu.config import CFCAMConfig


def filtered_volume(volume: Tensor, config: CFCAMConfig, *, ball: bool, ranged: bool) -> Tensor:
    """One map (d,h,w), cell by cell in float64; reflect-101 borders."""
    radius = config.radius(min(volume.shape[0], volume.shape[1]), volume.shape[2])
    out = torch.zeros_like(volume, dtype=torch.float64)
    steps = range(-radius, radius + 1)
    for place in torch.cartesian_prod(*(torch.arange(n) for n in volume.shape)).tolist():
        total = weight_sum = 0.0
        for offset in ((z, y, x) for z in steps for y in steps for x in steps):
            square = sum(n * n for n in offset)
            if ball and square > radius**2:
                continue
            cell = [
                min(abs(p + o), 2 * (n - 1) - abs(p + o))
                for p, o, n in zip(place, offset, volume.shape, strict=True)
            ]
            value, centre = float(volume[tuple(cell)]), float(volume[tuple(place)])
            exponent = -square / (2 * config.sigma_space**2)
            if ranged:
                exponent -= (value - centre) ** 2 / (2 * config.sigma_range**2)
            weight = float(torch.tensor(exponent, dtype=torch.float64).exp())
            total, weight_sum = total + weight * value, weight_sum + weight
        out[tuple(place)] = total / weight_sum
    return out
