"""Models of torchvision: their weights, their own preprocessing, their auxiliary heads."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from cfcam_gpu.images.preprocess import PUBLISHED_PREPROCESS, Preprocess
from cfcam_gpu.models import load_model
from cfcam_gpu.models.torchvision import preprocess_of
from tests.helpers.load_models import RESNET, cache_download, levels_apart, problem


@pytest.mark.parametrize(
    "spec", [RESNET, "torchvision:resnet18@IMAGENET1K_V1", "torchvision:resnet18@default"]
)
def test_pretrained_weights_bring_preprocessing_and_names(
    hub: Path, capsys: pytest.CaptureFixture[str], spec: str
) -> None:
    torch.manual_seed(5)
    model = torchvision.models.resnet18()
    cache_download(hub, "resnet18-f37072fd.pth", model.state_dict())
    loaded = load_model(spec)
    torch.testing.assert_close(loaded.model.get_parameter("fc.weight"), model.get_parameter("fc.weight"))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    assert loaded.preprocess == Preprocess((224, 224), mean, std, 256, "bilinear")
    assert loaded.class_name(285) == "Egyptian cat"
    assert loaded.weights == "ResNet18_Weights.IMAGENET1K_V1"
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("hub")
def test_untrained_weights_say_so_and_are_the_same_in_every_run() -> None:
    torch.manual_seed(1)
    first = load_model("torchvision:resnet18@none")
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    again = load_model("torchvision:resnet18@none")
    second = load_model("torchvision:resnet18@none", num_classes=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(map(torch.equal, first.model.parameters(), again.model.parameters()))
    assert second.model.get_parameter("fc.bias").shape == (3,)
    assert first.weights == "untrained (random, seed 0)"
    assert first.class_names is None
    assert first.preprocess == PUBLISHED_PREPROCESS


@pytest.mark.usefixtures("hub")
def test_own_weights_need_no_download_and_get_the_published_preprocessing(
    checkpoint: Path, resnet2: nn.Module
) -> None:
    loaded = load_model(RESNET, weights=checkpoint, num_classes=2)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(loaded.model(image), resnet2(image))
    assert loaded.preprocess == Preprocess((224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), None)
    assert (loaded.weights, loaded.class_names) == (str(checkpoint), None)


def test_two_sources_of_weights_are_refused(checkpoint: Path) -> None:
    spec = f"{RESNET}@IMAGENET1K_V1"
    assert problem(spec, weights=checkpoint) == (
        f"{spec} names weights and --weights gives others; drop one of the two"
    )


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
@pytest.mark.parametrize("heads", [True, False])
def test_auxiliary_heads_may_be_in_the_checkpoint_or_not(tmp_path: Path, name: str, *, heads: bool) -> None:
    trained = torchvision.models.get_model(name, num_classes=2, aux_logits=heads, init_weights=False).eval()
    torch.save({f"module.{key}": value for key, value in trained.state_dict().items()}, tmp_path / "w.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_model(f"torchvision:{name}", weights=tmp_path / "w.pth", num_classes=2)
    image = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = loaded.model(image)
        assert torch.equal(logits, trained(image))
    assert logits.shape == (1, 2)


@pytest.mark.parametrize("size", [(640, 427), (333, 800), (224, 224), (50, 31), (1, 7)])
@pytest.mark.parametrize(
    ("name", "interpolation"), [("efficientnet_b1", "bicubic"), ("resnet50", "bilinear")]
)
def test_preprocess_is_torchvisions(name: str, interpolation: str, size: tuple[int, int]) -> None:
    """Resizing only what is cropped rounds otherwise by one level at most."""
    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    ours = preprocess_of(weights)
    assert ours.interpolation == interpolation
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    assert levels_apart(ours, weights.transforms(), Image.fromarray(pixels)) <= 1.001
