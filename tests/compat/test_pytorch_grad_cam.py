"""The classes of `compat.pytorch_grad_cam` give what pytorch-grad-cam's give, in the same calls."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cfcam_gpu import ConfigError, TargetError
from cfcam_gpu.compat import pytorch_grad_cam as ours
from cfcam_gpu.compat.pytorch_grad_cam.utils import image as our_image
from cfcam_gpu.compat.pytorch_grad_cam.utils import model_targets as our_targets
from tests.methods.test_peers import EigenCAMWithSign

theirs = pytest.importorskip("pytorch_grad_cam", reason="pytorch-grad-cam is not installed")
their_image = importlib.import_module("pytorch_grad_cam.utils.image")
their_targets = importlib.import_module("pytorch_grad_cam.utils.model_targets")

#: Of a map's maximum.
TOLERANCE = 2e-4

#: Score-CAM's masks are upsampled with `align_corners` there, without here; of a map's maximum.
CORNERS = 2e-3

IMAGES = torch.randn(3, 3, 20, 28, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def model() -> nn.Sequential:
    """Two layers to explain, behind activations that are not modified in place."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(12, 6, 1), nn.Sigmoid(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 5),
    ).eval()  # fmt: skip


def both(name: str, model: nn.Sequential, layers: list[int], **call: Any) -> list[np.ndarray]:
    """The maps of both packages' class of this name."""
    targets = call.pop("targets", None)
    maps = []
    for package, functions in ((ours, our_targets), (theirs, their_targets)):
        chosen = None if targets is None else [getattr(functions, kind)(c) for kind, c in targets]
        with getattr(package, name)(model=model, target_layers=[model[i] for i in layers]) as cam:
            cam.batch_size = 32
            maps.append(cam(input_tensor=IMAGES, targets=chosen, **call))
            assert cam.outputs.shape == (3, 5)
    return maps


SAME = ("GradCAM", "HiResCAM", "XGradCAM", "LayerCAM", "AblationCAM")


@pytest.mark.parametrize("layers", [[3], [1, 3]])
@pytest.mark.parametrize("name", SAME)
def test_maps_are_theirs(name: str, layers: list[int], model: nn.Sequential) -> None:
    a, b = both(name, model, layers)
    assert a.shape == b.shape == (3, 20, 28)
    assert a.dtype == np.float32
    np.testing.assert_allclose(a, b, atol=TOLERANCE)


def test_scorecams_maps_are_theirs_but_for_the_corners_of_the_masks(model: nn.Sequential) -> None:
    a, b = both("ScoreCAM", model, [3])
    np.testing.assert_allclose(a, b, atol=CORNERS)


def test_eigencams_maps_are_theirs_of_the_chosen_sign(
    model: nn.Sequential, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(theirs, "EigenCAM", EigenCAMWithSign)
    a, b = both("EigenCAM", model, [3])
    np.testing.assert_allclose(a, b, atol=TOLERANCE)


@pytest.mark.parametrize(
    "kind", ["ClassifierOutputTarget", "ClassifierOutputSoftmaxTarget", "ClassifierOutputReST"]
)
def test_targets_are_theirs(kind: str, model: nn.Sequential) -> None:
    a, b = both("GradCAM", model, [3], targets=[(kind, 1), (kind, 4), (kind, 0)])
    np.testing.assert_allclose(a, b, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["GradCAM", "HiResCAM", "LayerCAM"])
@pytest.mark.parametrize("smooth", ["aug_smooth", "eigen_smooth", "both"])
def test_smoothing_is_theirs(name: str, smooth: str, model: nn.Sequential) -> None:
    call = dict.fromkeys(("aug_smooth", "eigen_smooth") if smooth == "both" else (smooth,), True)
    a, b = both(name, model, [3], targets=[("ClassifierOutputTarget", c) for c in (1, 4, 0)], **call)
    np.testing.assert_allclose(a, b, atol=TOLERANCE)


def test_fewer_targets_than_images_are_refused(model: nn.Sequential) -> None:
    with pytest.raises(TargetError), ours.GradCAM(model, [model[3]]) as cam:
        cam(IMAGES, [our_targets.ClassifierOutputTarget(0)])


def test_an_index_error_in_the_block_is_raised(model: nn.Sequential) -> None:
    with pytest.raises(IndexError), ours.GradCAM(model, [model[3]]):
        raise IndexError


def test_smoothing_of_a_method_without_channels_sum_is_refused(model: nn.Sequential) -> None:
    with pytest.raises(ConfigError, match="eigen_smooth is offered for gradcam"):
        ours.CFCAM(model, [model[3]])(IMAGES, eigen_smooth=True)


@pytest.mark.parametrize("name", ["CFCAM", "CFCAMSharp"])
def test_this_packages_methods_have_the_same_call(name: str, model: nn.Sequential) -> None:
    maps = getattr(ours, name)(model=model, target_layers=[model[3]])(input_tensor=IMAGES)
    assert maps.shape == (3, 20, 28)
    assert 0 <= maps.min() <= maps.max() <= 1


@pytest.mark.parametrize("use_rgb", [False, True])
def test_pictures_are_theirs(*, use_rgb: bool) -> None:
    rng = np.random.default_rng(0)
    img, mask = rng.random((5, 7, 3), np.float32), rng.random((5, 7), np.float32)
    expected = their_image.show_cam_on_image(img, mask, use_rgb=use_rgb, image_weight=0.3)
    np.testing.assert_array_equal(
        our_image.show_cam_on_image(img, mask, use_rgb=use_rgb, image_weight=0.3), expected
    )
    pixels = rng.integers(0, 256, (5, 7, 3), np.uint8)
    for picture in (pixels, img):
        torch.testing.assert_close(
            our_image.preprocess_image(picture, mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.4]),
            their_image.preprocess_image(picture, mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.4]),
        )


TARGETS: dict[str, tuple[Any, ...]] = {
    "ClassifierOutputTarget": (2,),
    "ClassifierOutputSoftmaxTarget": (2,),
    "ClassifierOutputReST": (2,),
    "SoftmaxOutputTarget": (),
    "RawScoresOutputTarget": (),
    "BinaryClassifierOutputTarget": (0,),
}


@pytest.mark.parametrize("kind", TARGETS)
def test_every_target_computes_the_same(kind: str) -> None:
    logits = torch.randn(4, generator=torch.Generator().manual_seed(0))
    a, b = (getattr(module, kind)(*TARGETS[kind])(logits) for module in (our_targets, their_targets))
    torch.testing.assert_close(a, b)


def test_the_segmentation_target_computes_the_same() -> None:
    mask, maps = np.eye(3, dtype=np.float32), torch.randn(2, 3, 3)
    a, b = (module.SemanticSegmentationTarget(1, mask)(maps) for module in (our_targets, their_targets))
    torch.testing.assert_close(a, b)
