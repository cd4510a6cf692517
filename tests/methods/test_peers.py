"""Each method against pytorch-grad-cam's or torch-cam's own, on the packaged model and photos.

Where a docstring of the methods states a deviation, the test takes just that out of the peer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cfcam_gpu import CFCAM
from cfcam_gpu.methods import gradient as gradient_methods
from cfcam_gpu.methods.gradient import SMOOTH_SAMPLES, noises

pytest.importorskip("pytorch_grad_cam", reason="a development dependency")

from pytorch_grad_cam import (
    FEM,
    AblationCAM,
    EigenCAM,
    GradCAM,
    GradCAMElementWise,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    ScoreCAM,
    SegEigenCAM,
    XGradCAM,
)
from pytorch_grad_cam.refine_cam import RefineCAM
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection_with_sign_correction

#: Heatmaps in [0,1]: float32 sums over 1,280 channels in another order.
TOLERANCE = 1e-4

#: After the head's nonlinearity, and an earlier layer whose activations have both signs.
LAYERS = ("_swish", "_blocks.10")


class OwnLast(nn.Module):
    """EfficientNet-Lite0 with a module of its own for the last nonlinearity.

    The model's own is called by the stem as well, and the peers take the first call of a module.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.last = nn.ReLU6()

    def forward(self, images: Tensor) -> Tensor:
        model: Any = self.model
        x = model._swish(model._bn0(model._conv_stem(images)))
        for block in model._blocks:
            x = block(x)
        x = self.last(model._bn1(model._conv_head(x)))
        return model._fc(model._avg_pooling(x).flatten(1))


class GradCAMPlusPlusWithoutEps(GradCAMPlusPlus):
    """Larger gradients and smaller activations by the same factor leave nothing of the 1e-6 but the formula."""

    def get_cam_weights(self, images, layers, targets, activations, grads):
        scaled = activations.astype(np.float64) * 1e-6, grads.astype(np.float64) * 1e6
        return super().get_cam_weights(images, layers, targets, *scaled)


class EigenCAMWithSign(EigenCAM):
    def get_cam_image(self, *arguments):
        activations = arguments[3]
        return get_2d_projection_with_sign_correction(activations)


def ours(model: nn.Module, layer: str, method: str, images: Tensor, targets: list[int]) -> Tensor:
    """Heatmaps normalised and resized by the peer's own function."""
    with CFCAM(model, layer, method=method) as cam:
        grid = cam(images, targets).grid.numpy()
    return torch.from_numpy(scale_cam_image(scale_cam_image(grid, images.shape[:1:-1])))


def theirs(
    peer: Callable[..., Any], model: nn.Module, layer: str, images: Tensor, targets: list[int]
) -> Tensor:
    wrapped = OwnLast(model).eval()
    module = wrapped.last if layer == "_swish" else model.get_submodule(layer)
    with peer(wrapped, [module]) as cam:
        return torch.from_numpy(cam(images, [ClassifierOutputTarget(target) for target in targets]))


def assert_same(found: Tensor, expected: Tensor) -> None:
    assert expected.amax((1, 2)).min() > 0.9, "a blank map would prove nothing"
    assert float((found - expected).abs().max()) <= TOLERANCE


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    ("method", "peer"),
    [
        ("gradcam", GradCAM),
        ("gradcam++", GradCAMPlusPlusWithoutEps),
        ("hirescam", HiResCAM),
        ("layercam", LayerCAM),
        ("xgradcam", XGradCAM),
        ("eigencam", EigenCAMWithSign),
        ("gradcam-elementwise", GradCAMElementWise),
        ("segeigencam", SegEigenCAM),
        ("fem", FEM),
    ],
)
def test_equals_pytorch_grad_cam(lite0, photo_batch, method, peer, layer):
    """For a predicted class and for one that is not."""
    images, targets = photo_batch[:2], [285, 504]
    expected = theirs(peer, lite0.model, layer, images, targets)
    assert_same(ours(lite0.model, layer, method, images, targets), expected)


#: After a ReLU6 with 32 channels: a forward pass for each is affordable.
FEW_CHANNELS = "_blocks.0._swish"


@pytest.mark.parametrize("layer", [FEW_CHANNELS, "_blocks.2"])
def test_scorecam_equals_pytorch_grad_cam_but_for_the_corners_of_its_masks(
    lite0, photo_batch, monkeypatch, layer
):
    def aligned(size: Any) -> nn.Module:
        return nn.Upsample(size=tuple(size), mode="bilinear", align_corners=False)

    monkeypatch.setattr(nn, "UpsamplingBilinear2d", aligned)
    images, targets = photo_batch[:1], [285]
    expected = theirs(ScoreCAM, lite0.model, layer, images, targets)
    assert_same(ours(lite0.model, layer, "scorecam", images, targets), expected)


def test_ablationcam_equals_pytorch_grad_cam(lite0, photo_batch):
    images, targets = photo_batch[1:2], [967]
    expected = theirs(AblationCAM, lite0.model, FEW_CHANNELS, images, targets)
    assert_same(ours(lite0.model, FEW_CHANNELS, "ablationcam", images, targets), expected)


class AtFinerSize(GradCAMPlusPlusWithoutEps):
    """The authors' RefineCAM multiplies maps of the image's size; this makes them as large as the earlier layer's."""

    def get_target_width_height(self, _images):
        return 14, 14


@pytest.mark.parametrize("count", [1, 3])
def test_refinecam_equals_that_of_its_authors(lite0, photo_batch, count):
    images, targets = photo_batch[:count], [285, 504, 670][:count]
    wrapped = OwnLast(lite0.model).eval()
    peer = RefineCAM(
        wrapped, [wrapped.last, wrapped.model.get_submodule("_blocks.10")], base_method=AtFinerSize
    )
    expected = torch.from_numpy(peer(images, [ClassifierOutputTarget(target) for target in targets]))
    for cam in peer.base_cam_per_layer:
        cam.activations_and_grads.release()
    with CFCAM(lite0.model, "_swish", method="refinecam", finer_layer="_blocks.10") as cam:
        grid = cam(images, targets).grid
        several = cam(images, [[504, target] for target in targets]).grid
    torch.testing.assert_close(several[:, 1], grid, rtol=0, atol=TOLERANCE)
    assert grid.shape == (count, 14, 14)
    assert_same(torch.from_numpy(scale_cam_image(grid.numpy())), expected)


class _Replayed:
    """Stands for torch-cam's normal distribution: the noises given, one after the other."""

    def __init__(self, given: list[Tensor]) -> None:
        self.given = iter(given)

    def sample(self, size: torch.Size) -> Tensor:
        drawn = next(self.given)
        assert drawn.shape == size
        return drawn


def torchcam_weights(
    model: nn.Module, layer: str, images: Tensor, targets: list[int], noise: list[Tensor]
) -> Tensor:
    """torch-cam's weights (B,C) for Smooth Grad-CAM++ with this noise and without its 1e-8."""
    methods = pytest.importorskip("torchcam.methods", reason="a development dependency")
    wrapped = OwnLast(model).eval()
    name = "last" if layer == "_swish" else f"model.{layer}"
    with methods.SmoothGradCAMpp(wrapped, name, num_samples=len(noise)) as cam:
        cam._distrib = _Replayed(noise)
        wrapped(images)
        return cam._get_weights(targets, None, eps=1e-30)[0].detach()


def test_smoothgradcam_plus_plus_has_torchcams_weights_at_the_head(lite0, photo_batch):
    """Where the gradient is the same at every copy, torch-cam's last one is the mean; its map is not taken."""
    images, targets = photo_batch[:2], [285, 967]
    with CFCAM(lite0.model, "_swish", method="smoothgradcam++") as cam:
        features = cam.features(images, targets)
        found = cam.explain(features).grid
        noise = list(noises(features))
    assert len(noise) == SMOOTH_SAMPLES == 4
    weights = torchcam_weights(lite0.model, "_swish", images, targets, noise)
    expected = (weights[:, :, None, None] * features.activations).sum(1).relu()
    peak = expected.amax((1, 2), keepdim=True)
    assert_same(found / peak, expected / peak)


def test_smoothgradcam_plus_plus_has_torchcams_weights_for_one_copy(lite0, photo_batch, monkeypatch):
    """An earlier layer, its map a single cell: there torch-cam's sum of products is the paper's product of sums."""
    images = nn.functional.interpolate(photo_batch, (32, 32), mode="area")
    targets = [285, 967, 670, 657, 463, 668, 985]
    monkeypatch.setattr(gradient_methods, "SMOOTH_SAMPLES", 1)
    with CFCAM(lite0.model, "_blocks.15", method="smoothgradcam++") as cam:
        features = cam.features(images, targets)
        found = cam.explain(features).grid
        noise = list(noises(features))
    assert features.activations.shape[2:] == (1, 1)
    weights = torchcam_weights(lite0.model, "_blocks.15", images, targets, noise)
    expected = (weights[:, :, None, None] * features.activations).sum(1).relu()
    assert (expected > 0).sum() >= 2
    torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE * float(expected.max()))


def test_smoothgradcam_plus_plus_averages_derivatives_over_the_copies(lite0, photo_batch):
    """The formula once more, for one channel and cell at a time in float64, after a ReLU6."""
    images, targets = photo_batch[:1], [285]
    with CFCAM(lite0.model, "_blocks.13._swish", method="smoothgradcam++") as cam:
        features = cam.features(images, targets)
        found = cam.explain(features).grid[0].double()
        copies = [features.gradients_of(images + noise)[0, 0].double() for noise in noises(features)]
    activations = features.activations[0].double()
    expected = torch.zeros_like(found)
    for channel, maps in enumerate(activations):
        weight = 0.0
        for y in range(maps.shape[0]):
            for x in range(maps.shape[1]):
                d1, d2, d3 = (
                    sum(float(copy[channel, y, x]) ** power for copy in copies) / len(copies)
                    for power in (1, 2, 3)
                )
                weight += d2 / (2 * d2 + float(maps.sum()) * d3) * max(d1, 0.0)
        expected += weight * maps
    expected = expected.relu()
    assert_same((found / expected.max())[None], (expected / expected.max())[None])
