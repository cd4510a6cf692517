"""The classes of `compat.pytorch_grad_cam` give what pytorch-grad-cam's give, in the same calls."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cfcam_gpu import CFCAM, ConfigError, TargetError
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


SAME = (
    "GradCAM", "HiResCAM", "XGradCAM", "LayerCAM", "AblationCAM", "GradCAMElementWise", "SegEigenCAM", "FEM",
)  # fmt: skip


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


@pytest.fixture
def agreeing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has their principal components agree with the sums, as ours do; their own sign is that of the decomposition."""
    original = importlib.import_module("pytorch_grad_cam.base_cam").get_2d_projection

    def projection(weighted: np.ndarray) -> np.ndarray:
        component, whole = original(weighted), weighted.sum(axis=1)
        whole = whole - whole.mean((1, 2), keepdims=True)
        sign = np.where((component * whole).sum((1, 2), keepdims=True) < 0, -1, 1)
        return np.float32(component * sign)

    for module in ("base_cam", "layer_cam", "eigen_grad_cam"):
        monkeypatch.setattr(f"pytorch_grad_cam.{module}.get_2d_projection", projection)


def positive(model: nn.Sequential) -> list[int]:
    """The likeliest classes: Ablation-CAM divides by the score there, which turns the map where that is negative."""
    classes: list[int] = model(IMAGES).argmax(1).tolist()
    return classes


SMOOTHINGS = {
    "aug_smooth": {"aug_smooth": True},
    "eigen_smooth": {"eigen_smooth": True},
    "both": {"aug_smooth": True, "eigen_smooth": True},
}


@pytest.mark.usefixtures("agreeing")
@pytest.mark.parametrize("name", ["GradCAM", "HiResCAM", "LayerCAM", "XGradCAM", "AblationCAM"])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_smoothing_is_theirs(name: str, smoothing: str, model: nn.Sequential) -> None:
    classes = positive(model) if name == "AblationCAM" else [1, 4, 0]
    targets = [("ClassifierOutputTarget", c) for c in classes]
    a, b = both(name, model, [3], targets=targets, **SMOOTHINGS[smoothing])
    np.testing.assert_allclose(a, b, atol=TOLERANCE)


@pytest.mark.usefixtures("agreeing")
@pytest.mark.parametrize("layers", [[3], [1, 3]])
@pytest.mark.parametrize("smooth", [False, True])
def test_eigen_grad_cam_is_smoothed_in_any_case(
    model: nn.Sequential, layers: list[int], *, smooth: bool
) -> None:
    a, b = both("EigenGradCAM", model, layers, eigen_smooth=smooth)
    np.testing.assert_allclose(a, b, atol=TOLERANCE)


def test_eigencam_takes_no_notice_of_smoothing(model: nn.Sequential) -> None:
    cam = ours.EigenCAM(model, [model[3]])
    np.testing.assert_array_equal(cam(IMAGES, eigen_smooth=True), cam(IMAGES))


@pytest.mark.parametrize("aug_smooth", [False, True])
@pytest.mark.parametrize("name", ["GradCAM", "HiResCAM", "LayerCAM"])
def test_volumes_are_explained_as_theirs(name: str, *, aug_smooth: bool) -> None:
    torch.manual_seed(5)
    net = nn.Sequential(
        nn.Conv3d(1, 6, 3, stride=2), nn.Sigmoid(), nn.AdaptiveAvgPool3d(2), nn.Flatten(), nn.Linear(48, 3)
    ).eval()
    volumes = torch.randn(2, 1, 9, 13, 11)
    maps = getattr(ours, name)(net, [net[1]])(volumes, aug_smooth=aug_smooth)
    assert maps.shape == (2, 9, 13, 11)
    their_cam = getattr(theirs, name)(net, [net[1]])
    if not aug_smooth:  # there, the mirror images of a volume fail
        np.testing.assert_allclose(maps, their_cam(volumes, targets=None), atol=TOLERANCE)


@pytest.mark.parametrize("name", ["SegEigenCAM", "FEM"])
def test_methods_that_take_no_notice_of_smoothing(name: str, model: nn.Sequential) -> None:
    a, b = both(name, model, [3], eigen_smooth=True)
    np.testing.assert_allclose(a, b, atol=TOLERANCE)


@pytest.mark.usefixtures("agreeing")
def test_the_smoothed_elementwise_map_is_theirs(
    model: nn.Sequential, monkeypatch: pytest.MonkeyPatch
) -> None:
    agreeing = importlib.import_module("pytorch_grad_cam.base_cam").get_2d_projection
    monkeypatch.setattr("pytorch_grad_cam.grad_cam_elementwise.get_2d_projection", agreeing)
    a, b = both("GradCAMElementWise", model, [5], eigen_smooth=True)
    np.testing.assert_allclose(a, b, atol=TOLERANCE)


FINER: list[dict[str, Any]] = [
    {},
    {"alpha": 0.6},
    {"comparison_categories": [2, 4]},
    {"comparison_categories": None},
    {"comparison_categories": [1, 7], "target_idx": 3},
]


@pytest.mark.parametrize("base", ["GradCAM", "HiResCAM"])
@pytest.mark.parametrize("options", FINER, ids=str)
def test_finer_maps_are_theirs(base: str, options: dict[str, Any], model: nn.Sequential) -> None:
    a, b = (
        package.FinerCAM(model, [model[1], model[3]], base_method=getattr(package, base))(IMAGES, **options)
        for package in (ours, theirs)
    )
    assert (a.max((1, 2)) > 0.9).all(), "a blank map would prove nothing"
    np.testing.assert_allclose(a, b, atol=TOLERANCE)


def test_finer_maps_of_targets_are_those_of_the_base_method(model: nn.Sequential) -> None:
    targets = [our_targets.ClassifierOutputTarget(c) for c in (1, 4, 0)]
    with ours.FinerCAM(model, [model[3]]) as cam:
        np.testing.assert_array_equal(cam(IMAGES, targets), ours.GradCAM(model, [model[3]])(IMAGES, targets))


def test_refined_maps_are_theirs(model: nn.Sequential) -> None:
    a, b = (
        package.RefineCAM(model, [model[1], model[3]], base_method=package.GradCAM)(IMAGES)
        for package in (ours, theirs)
    )
    assert (a.max((1, 2)) > 0.9).any(), "a blank map would prove nothing"
    np.testing.assert_allclose(a, b, atol=TOLERANCE)


def test_their_metrics_take_these_maps_and_targets(model: nn.Sequential) -> None:
    multiplied = importlib.import_module("pytorch_grad_cam.metrics.cam_mult_image")
    road = importlib.import_module("pytorch_grad_cam.metrics.road")
    maps = ours.GradCAM(model, [model[3]])(IMAGES)
    targets = [our_targets.ClassifierOutputSoftmaxTarget(c) for c in positive(model)]
    for metric in (multiplied.CamMultImageConfidenceChange(), road.ROADMostRelevantFirst(percentile=75)):
        assert metric(IMAGES, maps, targets, model).shape == (3,)


@pytest.mark.usefixtures("agreeing")
@pytest.mark.parametrize("name", ["GradCAM", "AblationCAM"])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_the_options_of_an_explainer_are_their_smoothing(
    name: str, smoothing: str, model: nn.Sequential
) -> None:
    """Where the maps of all views reach zero: they take the least value off each, which is not done here."""
    call: dict[str, Any] = SMOOTHINGS[smoothing]
    classes = positive(model)
    explainer = CFCAM(model, "3", method=name.lower(), **call)
    targets = [their_targets.ClassifierOutputTarget(c) for c in classes]
    with getattr(theirs, name)(model=model, target_layers=[model[3]]) as cam:
        cam.batch_size = 32
        expected = torch.from_numpy(cam(input_tensor=IMAGES, targets=targets, **call))
    zero = [
        CFCAM(model, "3", method=name.lower(), eigen_smooth="eigen_smooth" in call)(view, classes)
        for view in views_of(IMAGES)
    ]
    reach_zero = torch.stack([(one.heatmap.amin((1, 2)) == 0) & ~one.blank for one in zero]).all(0)
    assert reach_zero.any(), "choose other images"
    peaks = expected.amax((1, 2), keepdim=True)
    found = explainer(IMAGES, classes).heatmap
    torch.testing.assert_close(found[reach_zero], (expected / peaks)[reach_zero], atol=2 * TOLERANCE, rtol=0)


def views_of(images: torch.Tensor) -> list[torch.Tensor]:
    return [sides * factor for sides in (images, images.flip(3)) for factor in (0.9, 1.0, 1.1)]


def test_fewer_targets_than_images_are_refused(model: nn.Sequential) -> None:
    with pytest.raises(TargetError), ours.GradCAM(model, [model[3]]) as cam:
        cam(IMAGES, [our_targets.ClassifierOutputTarget(0)])


def test_an_index_error_in_the_block_is_raised(model: nn.Sequential) -> None:
    with pytest.raises(IndexError), ours.GradCAM(model, [model[3]]):
        raise IndexError


def test_smoothing_of_a_method_without_channels_sum_is_refused(model: nn.Sequential) -> None:
    with pytest.raises(ConfigError, match=r"weighted sum of channels \(cfcam, gradcam, .*got 'cfcam-sharp'"):
        ours.CFCAMSharp(model, [model[3]])(IMAGES, eigen_smooth=True)


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
    "FinerWeightedTarget": (2, [0, 3], 0.6),
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


@pytest.mark.parametrize(("name", "tokens"), [("vit_reshape_transform", 7), ("swinT_reshape_transform", 6)])
def test_transforms_of_tokens_are_theirs(name: str, tokens: int) -> None:
    output = torch.randn(3, tokens, 5, requires_grad=True)
    a, b = (
        getattr(importlib.import_module(f"{package}.utils.reshape_transforms"), name)(
            output, height=3, width=2
        )
        for package in ("cfcam_gpu.compat.pytorch_grad_cam", "pytorch_grad_cam")
    )
    torch.testing.assert_close(a, b, rtol=0, atol=0)
