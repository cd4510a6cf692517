"""Methods without gradients: features -> saliency map (B,K,h,w) float32, not negative.

Where a paper and the common implementations differ, the docstring says what is done here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cfcam_gpu._utils.precision import widest
from cfcam_gpu.cfcam.weighting import activation_map
from cfcam_gpu.methods.features import CapturedFeatures, Features
from cfcam_gpu.methods.smoothing import first_component, with_positive_peak

#: FEM: standard deviations above its channel's mean from which on a cell stands out (the paper's value).
_FEM_DEVIATIONS = 2


def scorecam(features: CapturedFeatures) -> Tensor:
    """Wang et al. 2020, arXiv 1910.01279: a channel's weight is the score of the image masked by it.

    The model runs once for each channel that is not constant. The masks are upsampled bilinearly
    (align_corners=False, as everywhere here; True in pytorch-grad-cam) and scaled to [0,1]. As in
    pytorch-grad-cam and torch-cam, the scores are logits, and the weights their softmax over the channels.
    """
    return activation_map(features.activations, scorecam_weights(features))


def scorecam_weights(features: CapturedFeatures) -> Tensor:
    """Score-CAM's weights (B,K,C)."""
    images, runner = features.images, features.runner
    b, c = features.activations.shape[:2]
    maps = features.activations.flatten(0, 1)[:, None]
    # A constant channel masks everything: its score is that of the black image.
    black = features.scores_of(runner.logits(torch.zeros_like(images)), torch.arange(b, device=images.device))
    scores = black.repeat_interleave(c, dim=0)
    varied = (maps.amax((1, 2, 3)) > maps.amin((1, 2, 3))).nonzero().flatten()
    for chunk in chunks(varied, runner.images_at_once(images[0])):
        masks, rows = masks_of(features, maps[chunk]), chunk // c
        scores[chunk] = features.scores_of(runner.logits((images[rows] * masks).to(images.dtype)), rows)
    return scores.view(b, c, -1).transpose(1, 2).softmax(2)


def ablationcam(features: CapturedFeatures) -> Tensor:
    """Desai and Ramaswamy 2020, doi 10.1109/WACV45572.2020.9093360: how much a score drops without a channel.

    The channel is set to zero, and only the layers behind the target layer run again. The weight is
    the drop itself. The paper divides it by the score, which scales the map where the score is positive
    and changes its sign where it is not. pytorch-grad-cam sets the channel to -1e7 instead of zero in
    layers with negative activations.
    """
    return activation_map(features.activations, ablationcam_weights(features))


def ablationcam_weights(features: CapturedFeatures) -> Tensor:
    """Ablation-CAM's weights (B,K,C)."""
    images, runner = features.images, features.runner
    weights = features.activations.new_zeros(len(images), features.k, features.activations.shape[1])
    for index, activations in enumerate(features.activations):
        nonzero = (activations != 0).flatten(1).any(1).nonzero().flatten()
        for chunk in chunks(nonzero, runner.at_once(activations)):
            ablated = activations.repeat(len(chunk), 1, 1, 1)
            ablated[torch.arange(len(chunk), device=chunk.device), chunk] = 0
            logits = runner.logits_of_activations(images[index, None], ablated)
            scores = features.scores_of(logits, torch.full_like(chunk, index))
            weights[index, :, chunk] = (features.scores[index] - scores).T
    return weights


def masks_of(features: CapturedFeatures, maps: Tensor) -> Tensor:
    """Maps (N,1,h,w) of the layer as masks of the image, (N,1,H,W) or (N,1,D,H,W), each scaled to [0,1]."""
    masks = features.at_image_size(maps)
    axes = tuple(range(1, masks.ndim))
    low, high = masks.amin(axes, keepdim=True), masks.amax(axes, keepdim=True)
    return (masks - low) / (high - low).clamp_min(torch.finfo(masks.dtype).tiny)


def chunks(indices: Tensor, size: int) -> tuple[Tensor, ...]:
    """The indices (N,) in chunks of a size; no chunk for N = 0, where `Tensor.split` gives an empty one.

    Example:
        >>> [chunk.tolist() for chunk in chunks(torch.arange(3), 2)], chunks(torch.arange(0), 2)
        ([[0, 1], [2]], ())
    """
    return indices.split(size) if len(indices) else ()


def eigencam(features: Features) -> Tensor:
    """Muhammad and Yeasin 2020, arXiv 2008.00299: the activations' first principal component, of no class.

    Each channel's mean is subtracted first, as in pytorch-grad-cam. The sign of a principal component
    is arbitrary: it is chosen so that the value of the largest magnitude is positive (Seg-Eigen-CAM,
    doi 10.3390/app15137562, equation 13).

    Example:
        >>> activations = torch.tensor([[[[1.0, 4.0, 1.0]], [[0.0, 0.0, 0.0]]]])
        >>> eigencam(Features(activations=activations, gradients=activations[:, None], size=(2, 6)))
        tensor([[[[0., 2., 0.]]]])
    """
    b, _, h, w = features.activations.shape
    projected = with_positive_peak(first_component(features.activations.flatten(2)))
    return projected.relu().float().view(b, 1, h, w).expand(b, features.k, h, w)


def fem(features: Features) -> Tensor:
    """Fuad et al. 2020, IPTA 2020, hal-02963298: channels weighted by how much of them stands out, of no class.

    Example:
        >>> activations = torch.tensor([[[[0.0, 0.0, 0.0, 0.0, 0.0, 9.0]], [[1.0, 2.0, 1.0, 2.0, 1.0, 2.0]]]])
        >>> fem(Features(activations=activations, gradients=activations[:, None], size=(2, 6)))
        tensor([[[[0.0000, 0.0000, 0.0000, 0.0000, 0.0000, 1.5000]]]])
    """
    return activation_map(features.activations, fem_weights(features))


def fem_weights(features: Features) -> Tensor:
    """FEM's weights (B,K,C): the share of a channel's cells above its mean by two standard deviations.

    In float64 where the device has it: rounding would lift the cells of a constant channel above their mean.
    """
    cells = widest(features.activations.flatten(2))
    deviation, mean = torch.std_mean(cells, 2, correction=0, keepdim=True)
    shares = (cells > mean + _FEM_DEVIATIONS * deviation).float().mean(2)
    return shares[:, None].expand(-1, features.k, -1)


def random(features: Features) -> Tensor:
    """Uniform noise at the layer's resolution, the same for all classes: what any method must beat.

    An image's noise depends on that image alone (without a model, on its activations).

    Example:
        >>> activations = torch.ones(2, 3, 4, 4)
        >>> grid = random(Features(activations=activations, gradients=activations[:, None], size=(8, 8)))
        >>> grid.shape, torch.equal(grid[0], grid[1])
        (torch.Size([2, 1, 4, 4]), True)
    """
    h, w = features.activations.shape[2:]
    noise = [torch.rand(h, w, generator=generator) for generator in features.generators()]
    grid = torch.stack(noise).to(features.activations.device)
    return grid[:, None].expand(-1, features.k, h, w)
