"""Methods without gradients: features -> grid (B,K,h,w) float32, not negative.

Where papers and the implementations in use part, the docstring says what is done here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cfcam_gpu.capture.model_runner import Features
from cfcam_gpu.cfcam.weighting import activation_map


def scorecam(features: Features) -> Tensor:
    """Wang et al. 2020, arXiv 1910.01279: a channel's weight is the score of the image masked by it.

    One forward pass of the model for each channel that is not constant. Masks are upsampled bilinearly
    (align_corners=False, as everywhere here; True in pytorch-grad-cam) and brought to [0,1]. As in
    pytorch-grad-cam and torch-cam, scores are logits and a softmax over the channels follows.
    """
    images, runner = features.asked
    b, c = features.activations.shape[:2]
    maps = features.activations.flatten(0, 1)[:, None]
    everyone = torch.arange(b, device=images.device)
    # A constant channel masks everything.
    dark = features.scores_of(runner.logits(torch.zeros_like(images)), everyone)
    scores = dark.repeat_interleave(c, dim=0)
    varied = (maps.amax((1, 2, 3)) > maps.amin((1, 2, 3))).nonzero().flatten()
    for part in _parts(varied, runner.at_once(images[0])):
        masks = F.interpolate(maps[part], images.shape[2:], mode="bilinear", align_corners=False)
        low, high = masks.amin((1, 2, 3), keepdim=True), masks.amax((1, 2, 3), keepdim=True)
        masks = (masks - low) / (high - low).clamp_min(torch.finfo(masks.dtype).tiny)
        rows = part // c
        scores[part] = features.scores_of(runner.logits((images[rows] * masks).to(images.dtype)), rows)
    return activation_map(features.activations, scores.view(b, c, -1).transpose(1, 2).softmax(2))


def ablationcam(features: Features) -> Tensor:
    """Desai and Ramaswamy 2020, doi 10.1109/WACV45572.2020.9093360: how much a score drops without a channel.

    The channel becomes zero and only the layers behind run again. The paper divides the drop by the
    score, which changes the map's scale alone where the score is positive and turns it around where it
    is not; the drop itself is taken here. pytorch-grad-cam puts -1e7 instead of zero into layers with
    negative activations.
    """
    images, runner = features.asked
    assert features.scores is not None
    weights = features.activations.new_zeros(len(images), features.k, features.activations.shape[1])
    for index, activations in enumerate(features.activations):
        alive = (activations != 0).flatten(1).any(1).nonzero().flatten()
        for part in _parts(alive, runner.at_once(activations)):
            without = activations.repeat(len(part), 1, 1, 1)
            without[torch.arange(len(part), device=part.device), part] = 0
            logits = runner.logits_of_activations(images[index, None], without)
            scores = features.scores_of(logits, torch.full_like(part, index))
            weights[index, :, part] = (features.scores[index] - scores).T
    return activation_map(features.activations, weights)


def _parts(indices: Tensor, size: int) -> tuple[Tensor, ...]:
    """The indices (N,) in parts of a size; none of nothing, of which `Tensor.split` makes an empty one."""
    return indices.split(size) if len(indices) else ()


def eigencam(features: Features) -> Tensor:
    """Muhammad and Yeasin 2020, arXiv 2008.00299: the activations' first principal component, whatever the class.

    Each channel's mean is taken off first, as in pytorch-grad-cam. A principal component has no sign of
    its own: the largest magnitude is made positive (Seg-Eigen-CAM, doi 10.3390/app15137562, equation 13).
    """
    b, c, h, w = features.activations.shape
    cells = features.activations.flatten(2).double()
    cells = cells - cells.mean(2, keepdim=True)
    if c <= h * w:
        _, vectors = torch.linalg.eigh(cells @ cells.mT)
        projected = (vectors[:, :, -1:] * cells).sum(1)
    else:
        values, vectors = torch.linalg.eigh(cells.mT @ cells)
        projected = values[:, -1:].clamp_min(0).sqrt() * vectors[:, :, -1]
    upside_down = projected.amin(1).abs() > projected.amax(1)
    projected = torch.where(upside_down[:, None], -projected, projected)
    return projected.relu().float().view(b, 1, h, w).expand(b, features.k, h, w)


def random(features: Features) -> Tensor:
    """Uniform noise at the layer's resolution, the same for all classes: what any method must beat.

    Its seed is made of the image (without a model, of the activations).
    """
    h, w = features.activations.shape[2:]
    drawn = [torch.rand(h, w, generator=generator) for generator in features.generators()]
    grid = torch.stack(drawn).to(features.activations.device)
    return grid[:, None].expand(-1, features.k, h, w)
