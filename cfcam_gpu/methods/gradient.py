"""Methods that weight a layer's activations by gradients: features -> saliency map (B,K,h,w) float32, not negative.

Where a paper and the common implementations differ, the docstring says what is done here.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from cfcam_gpu.cfcam.clustering import cluster_channels, scan_in_chunks
from cfcam_gpu.cfcam.maps import Maps
from cfcam_gpu.cfcam.weighting import activation_map, channel_weights, spatial_weights
from cfcam_gpu.engines import ENGINES
from cfcam_gpu.methods.features import CapturedFeatures, Features
from cfcam_gpu.methods.smoothing import first_component, with_positive_peak

#: Smooth Grad-CAM++: number of noisy copies of the image, and the standard deviation of the noise in units
#: of the model's input (torch-cam's defaults).
SMOOTH_SAMPLES, _SMOOTH_STD = 4, 0.3

#: XGrad-CAM: added to the sum of a channel's activations, which may be zero (pytorch-grad-cam's value).
_XGRAD_EPS = 1e-7


def cfcam(features: Features) -> Maps:
    """He, Pan and Yao 2025, arXiv 2504.00060; the modules of `cfcam_gpu.cfcam` are its steps.

    Example:
        >>> activations, gradients = torch.rand(2, 9, 4, 4), torch.rand(2, 1, 9, 4, 4)
        >>> features = Features(activations=activations, gradients=gradients, size=(8, 8), engine="torch")
        >>> cfcam(features).clusters.labels.shape
        torch.Size([2, 9])
    """
    run = ENGINES[features.engine].run
    return run(features.activations, features.gradients, features.size, features.config)


def cfcam_weights(features: Features) -> Tensor:
    """CF-CAM's weights (B,K,C), or (B,K,C,h,w) of the weighting `spatial`."""
    clusters = cluster_channels(features.activations, features.config, scan_in_chunks)
    weights = spatial_weights if features.config.weighting == "spatial" else channel_weights
    return weights(features.gradients, clusters, features.config)


def gradcam(features: Features) -> Tensor:
    """Selvaraju et al. 2017, arXiv 1610.02391: a channel's weight is the mean of its gradient.

    Example:
        >>> activations = torch.tensor([[[[1.0, 2.0]], [[4.0, 0.0]]]])
        >>> gradients = torch.tensor([[[[[3.0, 1.0]], [[0.0, -1.0]]]]])
        >>> gradcam(Features(activations=activations, gradients=gradients, size=(2, 4)))
        tensor([[[[0., 4.]]]])
    """
    return activation_map(features.activations, gradcam_weights(features))


def gradcam_weights(features: Features) -> Tensor:
    """Grad-CAM's weights (B,K,C)."""
    return features.gradients.mean((3, 4))


def hirescam(features: Features) -> Tensor:
    """Draelos and Carin 2020, arXiv 2011.08891: gradient times activation, summed over the channels.

    The sum passes through a ReLU, as in pytorch-grad-cam; the paper leaves it signed.

    Example:
        >>> activations = torch.tensor([[[[1.0, 2.0]], [[4.0, 0.0]]]])
        >>> gradients = torch.tensor([[[[[3.0, 1.0]], [[0.0, -1.0]]]]])
        >>> hirescam(Features(activations=activations, gradients=gradients, size=(2, 4)))
        tensor([[[[3., 2.]]]])
    """
    return (features.gradients * features.activations[:, None]).sum(2).relu_()


def hirescam_weights(features: Features) -> Tensor:
    """HiResCAM's weights (B,K,C,h,w)."""
    return features.gradients


def layercam(features: Features) -> Tensor:
    """Jiang et al. 2021, doi 10.1109/TIP.2021.3089943: positive gradient times activation, summed.

    Example:
        >>> activations = torch.tensor([[[[1.0, 2.0]], [[4.0, 0.0]]]])
        >>> gradients = torch.tensor([[[[[3.0, 1.0]], [[0.0, -1.0]]]]])
        >>> layercam(Features(activations=activations, gradients=gradients, size=(2, 4)))
        tensor([[[[3., 2.]]]])
    """
    return (layercam_weights(features) * features.activations[:, None]).sum(2).relu_()


def layercam_weights(features: Features) -> Tensor:
    """LayerCAM's weights (B,K,C,h,w)."""
    return features.gradients.relu()


def gradcam_elementwise(features: Features) -> Tensor:
    """pytorch-grad-cam's GradCAMElementWise: what is positive of gradient times activation, summed over the channels.

    Where no activation is negative it is LayerCAM.

    Example:
        >>> activations = torch.tensor([[[[-1.0, 2.0]], [[4.0, 0.0]]]])
        >>> gradients = torch.tensor([[[[[3.0, 1.0]], [[2.0, -1.0]]]]])
        >>> gradcam_elementwise(Features(activations=activations, gradients=gradients, size=(2, 4)))
        tensor([[[[8., 2.]]]])
    """
    return (features.gradients * features.activations[:, None]).relu_().sum(2)


def gradcam_elementwise_weights(features: Features) -> Tensor:
    """GradCAMElementWise's weights (B,K,C,h,w): the gradients where they and the activations have the same sign."""
    agrees = features.gradients * features.activations[:, None] > 0
    return torch.where(agrees, features.gradients, 0)


def segeigencam(features: Features) -> Tensor:
    """Chung and Ying 2025, doi 10.3390/app15137562: first principal component of activations times absolute gradients.

    Its value of the largest magnitude is positive, as in the paper.

    Example:
        >>> activations = torch.tensor([[[[1.0, 4.0, 1.0]], [[0.0, 0.0, 0.0]]]])
        >>> segeigencam(Features(activations=activations, gradients=-activations[:, None], size=(2, 6)))
        tensor([[[[ 0., 10.,  0.]]]])
    """
    weighted = (features.gradients.abs() * features.activations[:, None]).flatten(3)
    component = with_positive_peak(first_component(weighted.flatten(0, 1)))
    return component.relu().float().view(*weighted.shape[:2], *features.activations.shape[2:])


def xgradcam(features: Features) -> Tensor:
    """Fu et al. 2020, arXiv 2008.02312: gradients averaged with the channel's activations as weights.

    Example:
        >>> activations = torch.tensor([[[[1.0, 2.0]], [[4.0, 0.0]]]])
        >>> gradients = torch.tensor([[[[[3.0, 1.0]], [[0.0, -1.0]]]]])
        >>> xgradcam(Features(activations=activations, gradients=gradients, size=(2, 4)))
        tensor([[[[1.6667, 3.3333]]]])
    """
    return activation_map(features.activations, xgradcam_weights(features))


def xgradcam_weights(features: Features) -> Tensor:
    """XGrad-CAM's weights (B,K,C).

    Example:
        >>> activations, gradients = torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[[3.0, 1.0]]]]])
        >>> xgradcam_weights(Features(activations=activations, gradients=gradients, size=(2, 4)))
        tensor([[[1.6667]]])
    """
    activations = features.activations[:, None]
    return (features.gradients * activations).sum((3, 4)) / (activations.sum((3, 4)) + _XGRAD_EPS)


def gradcam_plus_plus(features: Features) -> Tensor:
    """Chattopadhay et al. 2018, arXiv 1710.11063, equations 10 and 19, of the exponential of the score.

    The factor exp(score) is one number per image and target and cancels in the heatmap.
    pytorch-grad-cam and torch-cam add 1e-6 and 1e-8 to the denominator, which decides the weights
    where gradients are smaller than the square root of that; nothing is added here. Where a layer has
    negative activations the denominator can come close to zero, and the weights become as large as
    the paper's formula makes them.

    Example:
        >>> activations = torch.tensor([[[[1.0, 2.0]], [[4.0, 0.0]]]])
        >>> gradients = torch.tensor([[[[[3.0, 1.0]], [[0.0, -1.0]]]]])
        >>> gradcam_plus_plus(Features(activations=activations, gradients=gradients, size=(2, 4)))
        tensor([[[[0.4727, 0.9455]]]])
    """
    return activation_map(features.activations, gradcam_plus_plus_weights(features))


def gradcam_plus_plus_weights(features: Features) -> Tensor:
    """Grad-CAM++'s weights (B,K,C).

    Example:
        >>> activations, gradients = torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[[3.0, 1.0]]]]])
        >>> gradcam_plus_plus_weights(Features(activations=activations, gradients=gradients, size=(2, 4)))
        tensor([[[0.4727]]])
    """
    g = features.gradients
    return _plus_plus_weights(features.activations, g, g**2, g**3)


def smoothgradcam_plus_plus(features: CapturedFeatures) -> Tensor:
    """Omeiza et al. 2019, arXiv 1908.01224: Grad-CAM++ of the mean derivatives at noisy copies of the image.

    Without noise it is Grad-CAM++. The numerator is the second derivative, as in Grad-CAM++ and
    torch-cam (the paper writes the first). The ReLU is taken of the mean gradient, and the map is made
    of the clean image's activations; torch-cam takes both of the last noisy copy. In the denominator
    the sum of the activations is multiplied with each cell's third derivative, as in the paper;
    torch-cam sums the products.
    """
    return activation_map(features.activations, smoothgradcam_plus_plus_weights(features))


def smoothgradcam_plus_plus_weights(features: CapturedFeatures) -> Tensor:
    """Smooth Grad-CAM++'s weights (B,K,C)."""
    moments = [torch.zeros((), device=features.images.device)] * 3
    for noise in noises(features):
        g = features.gradients_of(features.images + noise)
        moments = [
            moment + g**power / SMOOTH_SAMPLES for moment, power in zip(moments, (1, 2, 3), strict=True)
        ]
    return _plus_plus_weights(features.activations, *moments)


def _plus_plus_weights(activations: Tensor, first: Tensor, second: Tensor, third: Tensor) -> Tensor:
    """Weights (B,K,C) from the gradients' powers (B,K,C,h,w): Grad-CAM++, equations 10 and 19."""
    denominator = 2 * second + activations.sum((2, 3))[:, None, :, None, None] * third
    alpha = torch.where(denominator != 0, second / denominator, 0)
    return (alpha * first.relu()).sum((3, 4))


def noises(features: CapturedFeatures) -> Iterator[Tensor]:
    """Smooth Grad-CAM++'s noise: `SMOOTH_SAMPLES` times (B,3,H,W), of the images' dtype and on their device.

    An image's noise depends on that image alone.
    """
    shape, generators = features.images.shape[1:], features.generators()
    for _ in range(SMOOTH_SAMPLES):
        noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
        yield (noise * _SMOOTH_STD).to(features.images)
