"""Evaluation transforms and processors as a `Preprocess`, and modules as loaded models."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import ResNet50_Weights
from torchvision.transforms import InterpolationMode, v2

from cfcam_gpu.errors import ConfigError
from cfcam_gpu.images.preprocess import Preprocess
from cfcam_gpu.models.given import as_preprocess, loaded_module

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FLOAT = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        (ResNet50_Weights.IMAGENET1K_V2.transforms(), Preprocess((224, 224), MEAN, STD, 232)),
        (v2.Compose([v2.Resize(73), v2.CenterCrop(64), *FLOAT]), Preprocess((64, 64), MEAN, STD, 73)),
        (v2.Compose([v2.Resize((48, 64)), *FLOAT]), Preprocess((48, 64), MEAN, STD)),
        (
            v2.Compose([v2.Resize(70, InterpolationMode.BICUBIC), v2.CenterCrop(64), *FLOAT]),
            Preprocess((64, 64), MEAN, STD, 70, "bicubic"),
        ),
    ],
)
def test_a_transform_is_measured(transform, expected):
    found = as_preprocess(transform)
    assert (found.size, found.resize, found.interpolation) == (
        expected.size,
        expected.resize,
        expected.interpolation,
    )
    torch.testing.assert_close(torch.tensor([found.mean, found.std]), torch.tensor([MEAN, STD]))


def test_a_transform_of_timm():
    timm = pytest.importorskip("timm")
    transform = timm.data.create_transform(
        (3, 96, 96), crop_pct=0.8, interpolation="bicubic", mean=MEAN, std=STD
    )
    found = as_preprocess(transform)
    assert (found.size, found.resize, found.interpolation) == ((96, 96), 120, "bicubic")


@pytest.mark.parametrize(
    ("transform", "reason"),
    [
        (
            v2.Compose([v2.RandomResizedCrop(64), *FLOAT]),
            "Compose prepares images in a way that cfcam cannot repeat",
        ),
        (v2.Compose([v2.Resize(64), *FLOAT]), "Compose makes inputs of shape .* or another"),
        (v2.Compose([v2.Resize((64, 64)), v2.Grayscale(3), *FLOAT]), "Compose prepares .* on average"),
        (
            v2.Compose([v2.Resize((64, 64)), v2.RandomVerticalFlip(1.0), *FLOAT]),
            "call CFCAM with the tensors",
        ),
        (len, "builtin_function_or_method does not work"),
    ],
)
def test_a_transform_that_does_something_else_is_refused(transform, reason):
    with pytest.raises(
        ConfigError, match=f"do no more than resize, crop .*; .*{reason}.*; or pass preprocess=Preprocess"
    ):
        as_preprocess(transform)


def test_a_module_of_one_output_may_have_one_name():
    net = nn.Sequential(nn.Conv2d(3, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    loaded = loaded_module(net, Preprocess((8, 8), MEAN, STD), ["sick"])
    assert loaded.class_names == ("not sick", "sick")
    assert net.training
