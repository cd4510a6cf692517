"""Models of one, four and more channels: built, loaded, and refused where weights do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from cfcam_gpu.images.preprocess import Preprocess
from cfcam_gpu.models import load_model
from cfcam_gpu.models.channels import input_channels, with_input_channels
from tests.helpers.load_models import RESNET, problem


@pytest.fixture
def gray_weights(tmp_path: Path) -> Path:
    """A ResNet-18 for one channel, as an X-ray network is made from torchvision's."""
    model = torchvision.models.resnet18(num_classes=2)
    model.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    nn.init.constant_(model.conv1.weight, 0.125)
    torch.save(model.state_dict(), tmp_path / "gray.pth")
    return tmp_path / "gray.pth"


def test_weights_of_one_channel(gray_weights: Path) -> None:
    loaded = load_model(
        RESNET, weights=gray_weights, num_classes=2, channels=1, mean=[0.5], std=[1 / 2048], size=(64, 64)
    )
    assert loaded.preprocess == Preprocess((64, 64), (0.5,), (1 / 2048,))
    assert loaded.preprocess.channels == 1
    assert bool((loaded.model.get_parameter("conv1.weight") == 0.125).all())
    assert loaded.model(torch.zeros(2, 1, 64, 64)).shape == (2, 2)


def test_weights_of_one_channel_get_a_hint(gray_weights: Path) -> None:
    shape = "1 with another shape (conv1.weight: file (64, 1, 7, 7), model (64, 3, 7, 7))"
    message = f"the weights {gray_weights} do not fit {RESNET}: {shape}; pass --channels 1"
    assert problem(RESNET, weights=gray_weights, num_classes=2) == message
    both = problem(RESNET, weights=gray_weights)
    assert both.endswith("; pass --channels 1; pass --num-classes 2")


def test_timm_makes_models_of_other_channels(tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet18", in_chans=4, num_classes=3).state_dict(), tmp_path / "w.pth")
    mean, std = (0.1, 0.2, 0.3, 0.4), (0.5, 0.6, 0.7, 0.8)
    options: dict[str, Any] = {"weights": tmp_path / "w.pth", "num_classes": 3, "mean": mean, "std": std}
    loaded = load_model("timm:resnet18", channels=4, **options)
    assert input_channels(loaded.model) == 4
    assert (loaded.preprocess.mean, loaded.preprocess.std) == (mean, std)


@pytest.mark.parametrize("spec", ["efficientnet-lite0", RESNET, "timm:resnet18"])
def test_pretrained_weights_take_three_channels(spec: str) -> None:
    assert problem(spec, channels=1) == (
        f"the pretrained weights of {spec} take 3 channels, not 1; pass weights that were trained with 1 channel "
        "with --weights FILE"
    )


def test_only_the_first_convolution_changes() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, (3, 5), 2, 1, dilation=2), nn.Conv2d(4, 3, 1))
    second = model[1]
    assert with_input_channels(model, 6) is model
    assert (
        repr(model[0]) == "Conv2d(6, 4, kernel_size=(3, 5), stride=(2, 2), padding=(1, 1), dilation=(2, 2))"
    )
    assert model[0].weight.shape == (4, 6, 3, 5)
    assert model[1] is second
    assert input_channels(nn.Linear(2, 1)) is None
