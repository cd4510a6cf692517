"""Group-CAM and Recipro-CAM against their formulas, written out for one image and class at a time, on a real model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kornia.filters import gaussian_blur2d
from torch import Tensor, nn

from cfcam_gpu import CFCAM
from tests.helpers.method_cases import CLOSE, CONFIDENCE, explain

#: Heatmaps in [0,1]: weights are differences of probabilities, and every pass has float32's rounding.
TOLERANCE = 1e-4

#: Batches of 1 and 2 photos, two classes of each; class 504 is none that the model sees in a cat.
CLASSES = {1: [[285, 504]], 2: [[285, 281], [967, 504]]}


def probability(model: nn.Module, images: Tensor, target: int) -> Tensor:
    """(N,) of images (N,3,H,W), one after the other."""
    with torch.no_grad():
        return torch.stack([model(image[None])[0].softmax(0)[target] for image in images])


def heatmap(grid: Tensor, size: Any) -> Tensor:
    """(H,W) in [0,1] of a map (h,w)."""
    full = F.interpolate(grid[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    return full / full.max()


def groupcam_by_hand(
    model: nn.Module, image: Tensor, activations: Tensor, gradients: Tensor, target: int
) -> Tensor:
    """The heatmap (H,W) of an image (3,H,W) from its activations and gradients (C,h,w)."""
    hidden = gaussian_blur2d(image[None], (51, 51), (50.0, 50.0))[0]
    base = probability(model, hidden[None], target)[0]
    total = torch.zeros(activations.shape[1:])
    for some, slopes in zip(activations.chunk(32), gradients.chunk(32), strict=True):
        weighted = sum(slope.mean() * one for slope, one in zip(slopes, some, strict=True)).clamp(min=0)
        mask = F.interpolate(weighted[None, None], image.shape[1:], mode="bilinear", align_corners=False)[0]
        if mask.max() > mask.min():
            mask = (mask - mask.min()) / (mask.max() - mask.min())
            mixed = image * mask + hidden * (1 - mask)
            total += max(float(probability(model, mixed[None], target)[0] - base), 0.0) * weighted
    return heatmap(total, image.shape[1:])


@pytest.mark.parametrize(("layer", "size"), [("_swish", 1), ("_swish", 2), ("_blocks.5", 1)])
def test_groupcam_is_its_formula(lite0, photo_batch, layer, size):
    """`_blocks.5` has activations of both signs and 80 channels, which 32 does not divide."""
    images, targets = photo_batch[:size], torch.tensor(CLASSES[size])
    with CFCAM(lite0.model, layer, method="groupcam") as cam:
        features = cam.features(images, targets)
        found = cam.explain(features).heatmap
    assert found.shape == (size, 2, 224, 224)
    for i, image in enumerate(images):
        for k, target in enumerate(targets[i].tolist()):
            expected = groupcam_by_hand(
                lite0.model, image, features.activations[i], features.gradients[i, k], target
            )
            assert expected.isfinite().all()
            assert float((found[i, k] - expected).abs().max()) <= TOLERANCE


def test_groupcam_of_small_images_blurs_within_their_borders(net, images):
    """32x32 pixels take the whole window; 20x20 a smaller one, whose reflection they allow."""
    small = F.interpolate(images, (20, 20), mode="bilinear")
    found = explain(net, "groupcam", small, 1)
    assert bool(found.heatmap.isfinite().all())
    assert not found.blank.all()


def reciprocam_by_hand(model: Any, image: Tensor, layer: str, activations: Tensor, target: int) -> Tensor:
    """The heatmap (H,W): the probability where one cell of the activations (C,h,w) is left, less the least."""
    grid = torch.zeros(activations.shape[1:])
    for y in range(grid.shape[0]):
        for x in range(grid.shape[1]):
            left = torch.zeros_like(activations)
            left[:, y, x] = activations[:, y, x]
            grid[y, x] = head_probability(model, image, layer, left, target)
    return heatmap(grid - grid.min(), image.shape[1:])


def head_probability(model: Any, image: Tensor, layer: str, maps: Tensor, target: int) -> float:
    with torch.no_grad():
        if layer == "_swish":
            logits = model._fc(model._avg_pooling(maps[None]).flatten(1))
        else:
            handle = model.get_submodule(layer).register_forward_hook(lambda *_: maps[None])
            logits = model(image[None])
            handle.remove()
    return float(logits[0].softmax(0)[target])


@pytest.mark.parametrize(("layer", "size"), [("_swish", 1), ("_swish", 2), ("_blocks.14", 1)])
def test_reciprocam_is_its_formula(lite0, photo_batch, layer, size):
    images, targets = photo_batch[:size], torch.tensor(CLASSES[size])
    with CFCAM(lite0.model, layer, method="reciprocam") as cam:
        features = cam.features(images, targets)
        found = cam.explain(features).heatmap
    for i, image in enumerate(images):
        for k, target in enumerate(targets[i].tolist()):
            expected = reciprocam_by_hand(lite0.model, image, layer, features.activations[i], target)
            assert float((found[i, k] - expected).abs().max()) <= TOLERANCE


@pytest.mark.parametrize("method", sorted(CONFIDENCE))
def test_functions_stand_for_the_probability(net, images, method):
    """A function's value weights the parts where a class's probability does: a rescaled one gives the same map."""
    functions = [lambda logits, k=k: logits[k] for k in (0, 2, 1, 0)]
    scaled = [lambda logits, k=k: 10 * logits[k] for k in (0, 2, 1, 0)]
    found = explain(net, method, images, functions)
    torch.testing.assert_close(explain(net, method, images, scaled).heatmap, found.heatmap, **CLOSE)
    assert not torch.allclose(found.heatmap, explain(net, method, images, [0, 2, 1, 0]).heatmap, atol=1e-2)
