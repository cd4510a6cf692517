"""The first principal component of a layer's channels: Eigen-CAM's map, and `eigen_smooth` of other methods."""

from __future__ import annotations

import torch
from torch import Tensor

from cfcam_gpu._utils.precision import widest


def first_component(channels: Tensor) -> Tensor:
    """(N,cells): each cell's projection on the first principal component of channels (N,C,cells), of either sign.

    Each channel's mean is subtracted first, as in pytorch-grad-cam. float64 where the device has it.

    Example:
        >>> first_component(torch.tensor([[[1.0, 4.0, 1.0], [0.0, 0.0, 0.0]]])).abs().float()
        tensor([[1., 2., 1.]])
    """
    cells = widest(channels)
    cells = cells - cells.mean(2, keepdim=True)
    if cells.shape[1] <= cells.shape[2]:
        _, vectors = torch.linalg.eigh(cells @ cells.mT)
        return (vectors[:, :, -1:] * cells).sum(1)
    values, vectors = torch.linalg.eigh(cells.mT @ cells)
    return values[:, -1:].clamp_min(0).sqrt() * vectors[:, :, -1]


def with_positive_peak(components: Tensor) -> Tensor:
    """Components (N,cells), each of the sign with which its value of the largest magnitude is positive.

    Seg-Eigen-CAM's rule, doi 10.3390/app15137562, equation 13.

    Example:
        >>> with_positive_peak(torch.tensor([[1.0, -2.0], [2.0, -1.0]]))
        tensor([[-1.,  2.],
                [ 2., -1.]])
    """
    negative = components.amin(1).abs() > components.amax(1)
    return torch.where(negative[:, None], -components, components)


def eigen_smoothed(activations: Tensor, weights: Tensor) -> Tensor:
    """The grid (B,K,h,w) float32, not negative, with the weighted channels' first principal component for their sum.

    The sign of a principal component is arbitrary, and pytorch-grad-cam takes what its decomposition gives. Here it is
    the one with which the component agrees with the sum: what speaks for the class is positive.

    Args:
        activations: (B,C,h,w) float32.
        weights: (B,K,C) or (B,K,C,h,w) float32.

    Example:
        >>> activations = torch.tensor([[[[1.0, 4.0, 1.0]], [[0.0, 0.0, 0.0]]]])
        >>> eigen_smoothed(activations, torch.tensor([[[2.0, 1.0], [-2.0, 1.0]]]))
        tensor([[[[0., 4., 0.]],
        <BLANKLINE>
                 [[2., 0., 2.]]]])
    """
    weights = weights[..., None, None] if weights.ndim == 3 else weights
    weighted = (weights * activations[:, None]).flatten(3)
    component = first_component(weighted.flatten(0, 1)).unflatten(0, weighted.shape[:2])
    whole = weighted.sum(2)
    agreement = (component * (whole - whole.mean(2, keepdim=True))).sum(2, keepdim=True)
    component = torch.where(agreement < 0, -component, component)
    return component.relu().float().unflatten(2, activations.shape[2:])
