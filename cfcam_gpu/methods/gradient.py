"""Methods that weight a layer's activations by gradients: features -> grid (B,K,h,w) float32, not negative.

Where papers and the implementations in use part, the docstring says what is done here.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from cfcam_gpu.capture.model_runner import Features
from cfcam_gpu.cfcam.weighting import activation_map

#: Smooth Grad-CAM++: noisy copies of the image, and the noise's deviation in the model's input units
#: (torch-cam's defaults).
SMOOTH_SAMPLES, SMOOTH_STD = 4, 0.3

#: XGrad-CAM: lest a channel without activation be divided by zero (pytorch-grad-cam's value).
XGRAD_EPS = 1e-7


def gradcam(features: Features) -> Tensor:
    """Selvaraju et al. 2017, arXiv 1610.02391: a channel's weight is the mean of its gradient."""
    return activation_map(features.activations, features.gradients.mean((3, 4)))


def hirescam(features: Features) -> Tensor:
    """Draelos and Carin 2020, arXiv 2011.08891: gradient times activation, summed over the channels.

    The sum passes through a ReLU, as in pytorch-grad-cam; the paper leaves it signed.
    """
    return (features.gradients * features.activations[:, None]).sum(2).relu_()


def layercam(features: Features) -> Tensor:
    """Jiang et al. 2021, doi 10.1109/TIP.2021.3089943: positive gradient times activation, summed."""
    return (features.gradients.relu() * features.activations[:, None]).sum(2).relu_()


def xgradcam(features: Features) -> Tensor:
    """Fu et al. 2020, arXiv 2008.02312: gradients averaged with the channel's activations as weights."""
    activations = features.activations[:, None]
    weights = (features.gradients * activations).sum((3, 4)) / (activations.sum((3, 4)) + XGRAD_EPS)
    return activation_map(features.activations, weights)


def gradcam_plus_plus(features: Features) -> Tensor:
    """Chattopadhay et al. 2018, arXiv 1710.11063, equations 10 and 19, of the score's exponential.

    The exponential's own factor is one number for an image and target and cancels in the heatmap.
    pytorch-grad-cam and torch-cam add 1e-6 and 1e-8 to the denominator, which for gradients of that
    order's square root and below decides the weights; nothing is added here. The denominator of a
    layer with negative activations can vanish, and the weights are then as wild as the paper's.
    """
    g = features.gradients
    return activation_map(features.activations, _plus_plus_weights(features.activations, g, g**2, g**3))


def smoothgradcam_plus_plus(features: Features) -> Tensor:
    """Omeiza et al. 2019, arXiv 1908.01224: Grad-CAM++ of the mean derivatives at noisy copies of the image.

    The numerator is the second derivative, as in Grad-CAM++ and torch-cam (the paper writes the
    first). The ReLU takes the mean gradient and the map the clean image's activations, where torch-cam
    takes the last copy's of both; its sum over activations times third derivatives is, as for Grad-CAM++,
    the paper's product of the activations' sum and each cell's derivative. Without noise it is Grad-CAM++.
    """
    images, _ = features.asked
    moments = [torch.zeros((), device=images.device)] * 3
    for noise in noises(features):
        g = features.gradients_of(images + noise)
        moments = [
            moment + g**power / SMOOTH_SAMPLES for moment, power in zip(moments, (1, 2, 3), strict=True)
        ]
    return activation_map(features.activations, _plus_plus_weights(features.activations, *moments))


def _plus_plus_weights(activations: Tensor, first: Tensor, second: Tensor, third: Tensor) -> Tensor:
    """Weights (B,K,C) from the gradients' powers (B,K,C,h,w): Grad-CAM++, equations 10 and 19."""
    denominator = 2 * second + activations.sum((2, 3))[:, None, :, None, None] * third
    alpha = torch.where(denominator != 0, second / denominator, 0)
    return (alpha * first.relu()).sum((3, 4))


def noises(features: Features) -> Iterator[Tensor]:
    """Smooth Grad-CAM++'s noise: `SMOOTH_SAMPLES` times (B,3,H,W), like the images; an image's own."""
    images, _ = features.asked
    own = features.generators()
    for _ in range(SMOOTH_SAMPLES):
        drawn = torch.stack([torch.randn(images.shape[1:], generator=generator) for generator in own])
        yield (drawn * SMOOTH_STD).to(images)
