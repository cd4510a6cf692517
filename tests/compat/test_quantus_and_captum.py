"""Quantus takes `compat.quantus.explain`, and `compat.captum.LayerCAM` stands where captum's LayerGradCam stood."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cfcam_gpu import CFCAM, ConfigError
from cfcam_gpu.compat import captum as ours_of_captum
from cfcam_gpu.compat.captum import LayerCAM, LayerGradCam
from cfcam_gpu.compat.quantus import explain
from tests.helpers.capture_net import make_images, make_net


def test_the_function_gives_the_heatmaps() -> None:
    net, images = make_net(), make_images()
    expected = CFCAM(net, "relu", on_invalid="flag")(images, targets=[1, 2, 0]).heatmap
    result = explain(net, images.numpy(), np.array([1, 2, 0]), target_layer="relu", device="cpu")
    np.testing.assert_array_equal(result[:, 0], expected.numpy())


def test_quantus_measures_with_it() -> None:
    quantus = pytest.importorskip("quantus", reason="Quantus is not installed")
    net, images = make_net(), make_images()
    classes = net(images).argmax(1).numpy()
    metric = quantus.Sparseness(disable_warnings=True)
    scores = metric(
        model=net,
        x_batch=images.numpy(),
        y_batch=classes,
        explain_func=explain,
        explain_func_kwargs={"target_layer": "relu", "method": "gradcam"},
        device="cpu",
    )
    assert len(scores) == 3
    assert all(0 <= score <= 1 for score in scores)


def test_attributions_are_captums() -> None:
    attribution = pytest.importorskip("captum.attr", reason="captum is not installed")
    net, images = make_net(), make_images()
    targets = torch.tensor([1, 2, 0])
    ours = LayerCAM(net, net.conv2, method="gradcam").attribute(images, target=targets)
    theirs = attribution.LayerGradCam(net, net.conv2).attribute(
        images, target=targets, relu_attributions=True
    )
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("target", [2, [1, 2, 0], torch.tensor([1, 2, 0])], ids=str)
def test_a_script_of_captum_changes_its_import_and_nothing_else(target: Any, *, relu: bool) -> None:
    theirs = pytest.importorskip("captum.attr", reason="captum is not installed")
    net, images = make_net(), make_images()
    maps = []
    for package in (theirs, ours_of_captum):
        attributions = package.LayerGradCam(net, net.conv2).attribute(
            images, target=target, relu_attributions=relu
        )
        maps.append(package.LayerAttribution.interpolate(attributions, (24, 24)))
    assert (maps[0] < 0).any() != relu, "signs would not be seen"
    torch.testing.assert_close(maps[1], maps[0], atol=1e-5, rtol=1e-4)


def test_a_signed_map_of_a_model_with_further_arguments_is_refused() -> None:
    net = make_net()
    with pytest.raises(ConfigError, match="need relu_attributions=True"):
        LayerGradCam(net, net.conv2).attribute(make_images(), 1, torch.ones(3))


def test_further_arguments_reach_the_model() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = make_net()

        def forward(self, images: Tensor, scale: Tensor) -> Tensor:
            logits: Tensor = self.net(images * scale)
            return logits

    model, images = Scaled().eval(), make_images()
    expected = LayerCAM(model.net, model.net.relu).attribute(images * 2, target=1)
    result = LayerCAM(model, model.net.relu).attribute(images, 1, torch.tensor(2.0))
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "area"])
def test_interpolation_is_pytorchs(mode: str) -> None:
    maps = torch.rand(2, 1, 3, 4)
    expected = nn.functional.interpolate(maps, (6, 9), mode=mode)
    torch.testing.assert_close(LayerCAM.interpolate(maps, (6, 9), mode), expected)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown interpolate_mode 'cubic'"):
        LayerCAM.interpolate(torch.ones(1, 1, 2, 2), (4, 4), "cubic")
