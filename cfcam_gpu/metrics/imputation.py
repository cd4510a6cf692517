"""Missing pixels are filled from their neighbours, as ROAD does: a sparse linear system for each image, batched.

In the solution every missing pixel equals the weighted mean of its eight neighbours. The system is symmetric and
positive definite, so conjugate gradients solve it. A multigrid cycle is the preconditioner: it keeps the number of
iterations small also for large holes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cfcam_gpu._utils.checks import Check, never_ends

#: Weight of a diagonal neighbour. A direct neighbour weighs twice as much, 1/6 (Rong et al. 2022), which
#: `neighbour_sum` has in its kernel; the weights of all eight add up to 1.
_DIAGONAL = 1 / 12

#: A hole is filled when no equation is off by more, in units of the image. On holes of 80 % of 224×224 pixels
#: float32's rounding then leaves the values within 2e-4 of the exact ones; ROAD's noise is 50 times that.
_RESIDUAL = 1e-6
#: About 15 are needed at 224×224 pixels; more than this means that rounding keeps the system from converging.
_MAX_ITERATIONS = 200

#: Jacobi steps on the coarsest level.
_COARSE_STEPS = 4


class _Level(NamedTuple):
    """One resolution of the system.

    Attributes:
        missing: (N,1,h,w) float32, 0 or 1.
        weights: (h,w) float32, sum of the weights of the neighbours inside the image.
        inverse: (N,1,h,w) float32, 1 / weights at missing pixels, else 0: a Jacobi step.
    """

    missing: Tensor
    weights: Tensor
    inverse: Tensor


def impute(images: Tensor, missing: Tensor, check: Check = never_ends) -> Tensor:
    """The images with their missing pixels filled, without noise.

    Args:
        images: (N,C,H,W) float32; values at missing pixels are not read.
        missing: (N,H,W) bool. An image of which nothing is left becomes zero.
        check: called before every iteration; it may raise to end the computation.

    Returns:
        (N,C,H,W) float32. An image does not depend on the others: each channel stops by itself, when it has
        reached `_RESIDUAL`.

    Raises:
        RuntimeError: the system is not solved after `_MAX_ITERATIONS`, for example for values far outside of [0,1].

    Source: Rong et al., ROAD, ICML 2022, section 4.2; the authors solve the same system by a sparse
    factorisation.

    Example:
        >>> image = torch.tensor([[[[0.0, 9.0, 1.0]]]])
        >>> impute(image, torch.tensor([[[False, True, False]]]))
        tensor([[[[0.0000, 0.5000, 1.0000]]]])
    """
    levels = _levels(missing[:, None].float())
    holes = levels[0].missing
    kept = torch.where(holes > 0, 0, images)
    filled = _conjugate_gradients(levels, holes * neighbour_sum(kept), check)
    return kept + filled


def neighbour_sum(x: Tensor) -> Tensor:
    """Weighted sum (…,h,w) of the eight neighbours of each pixel; nothing comes from outside the image.

    Example:
        >>> neighbour_sum(torch.tensor([[0.0, 0.0, 0.0], [0.0, 12.0, 0.0], [0.0, 0.0, 0.0]]))
        tensor([[1., 2., 1.],
                [2., 0., 2.],
                [1., 2., 1.]])
    """
    across = 2 * x
    across[..., 1:] += x[..., :-1]
    across[..., :-1] += x[..., 1:]
    total = 2 * across
    total[..., 1:, :] += across[..., :-1, :]
    total[..., :-1, :] += across[..., 1:, :]
    # The kernel 1-2-1 × 1-2-1 counts diagonal neighbours once, direct ones 2 times and the pixel itself 4 times.
    return total.sub_(x, alpha=4).mul_(_DIAGONAL)


def _system(level: _Level, x: Tensor) -> Tensor:
    """The equations' left side for x (N,C,h,w) that is zero outside the holes."""
    return neighbour_sum(x).neg_().addcmul_(level.weights, x).mul_(level.missing)


def _residual(level: _Level, x: Tensor, right: Tensor) -> Tensor:
    """The residual of x (N,C,h,w): the equations' right side less their left side."""
    return _system(level, x).neg_().add_(right)


def _levels(missing: Tensor) -> list[_Level]:
    """The system at full resolution, at half of it and so on; a coarse cell is missing if all its pixels are."""
    levels = []
    while True:
        weights = neighbour_sum(torch.ones_like(missing[0, 0]))
        levels.append(_Level(missing, weights, missing / weights))
        if min(missing.shape[2:]) < 4:
            return levels
        missing = 1 - F.max_pool2d(1 - _even(missing), 2)


def _even(x: Tensor) -> Tensor:
    """(N,C,h,w) with a row and a column of zeros after odd sizes."""
    return F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))


def _cycle(levels: list[_Level], right: Tensor) -> Tensor:
    """A symmetric multigrid cycle: roughly the solution for a right side (N,C,h,w)."""
    level, coarser = levels[0], levels[1:]
    x = level.inverse * right
    if not coarser:
        for _ in range(_COARSE_STEPS):
            x.addcmul_(level.inverse, _residual(level, x, right))
        return x
    halved = 4 * F.avg_pool2d(_even(_residual(level, x, right)), 2) * coarser[0].missing
    doubled = F.interpolate(_cycle(coarser, halved), scale_factor=2.0)
    x.add_(doubled[..., : x.shape[2], : x.shape[3]])
    return x.addcmul_(level.inverse, _residual(level, x, right))


def _conjugate_gradients(levels: list[_Level], right: Tensor, check: Check) -> Tensor:
    """Solution (N,C,h,w) of the system, preconditioned by `_cycle`; a channel that has converged stays."""
    x, residual = torch.zeros_like(right), right.clone()
    direction, product = torch.zeros_like(right), torch.ones_like(right[..., :1, :1])
    for _ in range(_MAX_ITERATIONS):
        check()
        active = residual.abs().amax((2, 3), keepdim=True) > _RESIDUAL
        if not active.any():
            return x
        guess = _cycle(levels, residual)
        before, product = product, torch.where(active, _dot(residual, guess), product)
        # The first direction is zero, so the first quotient does not matter.
        direction.mul_(product / before).add_(guess)
        image = _system(levels[0], direction)
        length = torch.where(active, product / _dot(direction, image), 0)
        x.addcmul_(length, direction)
        residual.addcmul_(length, image, value=-1)
    raise RuntimeError(f"pixels could not be filled in to {_RESIDUAL:g} in {_MAX_ITERATIONS} iterations")


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((2, 3), keepdim=True)
