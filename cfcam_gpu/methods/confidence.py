"""Methods that ask how sure the model is of the class where only a part is seen: of the image, or of the layer's map.

Where a paper and the authors' code differ, the docstring says what is done here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cfcam_gpu.methods.features import CapturedFeatures
from cfcam_gpu.methods.gradient_free import chunks, masks_of

#: Group-CAM: most groups of channels (the authors' default), and window in pixels and standard deviation of the blur
#: that hides what a group does not mark (the authors' code).
_GROUPS, _WINDOW, _SIGMA = 32, 51, 50.0


def groupcam(features: CapturedFeatures) -> Tensor:
    """Zhang et al. 2021, arXiv 2103.13859: maps of 32 groups of channels, weighted by what each raises the probability.

    1. A group is neighbouring channels; its map is the ReLU of the sum of its channels, weighted as in Grad-CAM.
    2. The map, upsampled and scaled to [0,1], mixes the image with a blurred copy of it: the copy where it is 0.
    3. The group's weight is the target's probability on the mixture less that on the blurred image, at least 0; for
       targets that are functions, their value in place of the probability.

    The model runs once on the blurred image and once for each group and target whose map is not zero. The paper also
    clears the low values of each group's map; the authors' code, which this follows, does not. That code needs a
    number of channels that 32 divides; here the last group may be smaller. The blur's window shrinks for images of
    fewer than 26 pixels, since it is reflected at the border.
    """
    images, runner, maps = features.images, features.runner, _group_maps(features)
    b, k, groups = maps.shape[:3]
    hidden = _blurred(images)
    base = features.confidences_of(runner.logits(hidden), torch.arange(b, device=images.device))
    parts = maps.flatten(0, 2)[:, None]
    gains = base.new_zeros(len(parts))
    marked = parts.flatten(1).any(1).nonzero().flatten()
    for chunk in chunks(marked, runner.images_at_once(images[0])):
        row, target = chunk // (k * groups), chunk // groups % k
        mixed = torch.lerp(hidden[row].float(), images[row].float(), masks_of(features, parts[chunk]))
        confidences = features.confidences_of(runner.logits(mixed.to(images.dtype)), row)
        gains[chunk] = confidences.gather(1, target[:, None])[:, 0] - base[row, target]
    return torch.einsum("bkg,bkghw->bkhw", gains.relu().view(b, k, groups), maps)


def _group_maps(features: CapturedFeatures) -> Tensor:
    """(B,K,G,h,w), not negative: Grad-CAM of each group of neighbouring channels, at most `_GROUPS` of them."""
    weighted = features.gradients.mean((3, 4), keepdim=True) * features.activations[:, None]
    channels = weighted.shape[2]
    size = -(-channels // _GROUPS)
    filled = F.pad(weighted, (0, 0, 0, 0, 0, -channels % size))
    return filled.unflatten(2, (-1, size)).sum(3).relu_()


def _blurred(images: Tensor) -> Tensor:
    """Images (B,3,H,W) or volumes (B,C,D,H,W) under a Gaussian, reflected at the border."""
    blurred = images
    for axis in range(2, images.ndim):
        lines = blurred.movedim(axis, -1)
        reach = min(_WINDOW // 2, lines.shape[-1] - 1)
        offsets = torch.arange(-reach, reach + 1, device=images.device, dtype=torch.float32)
        kernel = torch.exp(-(offsets**2) / (2 * _SIGMA**2))
        padded = F.pad(lines.reshape(-1, 1, lines.shape[-1]).float(), (reach, reach), mode="reflect")
        smooth = F.conv1d(padded, (kernel / kernel.sum())[None, None])
        blurred = smooth.view(lines.shape).movedim(-1, axis)
    return blurred.to(images.dtype)


def reciprocam(features: CapturedFeatures) -> Tensor:
    """Byun and Lee 2022, arXiv 2209.14074: the class's probability where a single cell of the layer's map is left.

    All other cells are zero, and only the layers behind the target layer run, once for each cell; tokens that are no
    place in the picture stay. The least probability of an image's cells is taken off. For targets that are functions,
    their value stands in place of the probability. As in the authors' code, a cell is left as it is; the paper's
    second variant, and OpenVINO's code, spread it over its neighbours by a Gaussian of 3x3 cells.
    """
    b, _, h, w = features.activations.shape
    images, runner = features.images, features.runner
    found = features.activations.new_zeros(b, h * w, features.k)
    cells = torch.arange(h * w, device=images.device)
    for index, activations in enumerate(features.activations):
        for chunk in cells.split(runner.at_once(activations)):
            alone = activations * F.one_hot(chunk, h * w).view(-1, 1, h, w)
            logits = runner.logits_of_activations(images[index, None], alone)
            found[index, chunk] = features.confidences_of(logits, torch.full_like(chunk, index))
    grid = found.transpose(1, 2).unflatten(2, (h, w))
    return grid - grid.amin((2, 3), keepdim=True)
