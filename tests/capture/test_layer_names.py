"""Target layers as people name them: with the parts that wrappers put into names, by index, and what is no layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from cfcam_gpu import CFCAM, CaptureError
from cfcam_gpu.capture import find_layer


class _Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer4 = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.head(self.layer4(images)))


class _Adapter(nn.Module):
    """Named as the models of PEFT are."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.base_model = nn.Module()
        self.base_model.model = model

    def forward(self, images: torch.Tensor) -> Any:
        return self.base_model.get_submodule("model")(images)


class _Half(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone


@pytest.mark.parametrize(
    "name",
    ["layer4", "module.layer4", "_orig_mod.layer4", "module._orig_mod.layer4", "base_model.model.layer4"],
)
@pytest.mark.parametrize("wrap", [lambda model: model, _Adapter, nn.DataParallel, torch.compile])
def test_names_count_with_and_without_what_wrappers_put_there(name: str, wrap: Any) -> None:
    inner = _Inner().eval()
    cam = CFCAM(wrap(inner), name)
    assert cam._layer is not None
    assert cam._layer.module is inner.layer4


def test_a_compiled_part_of_a_model() -> None:
    inner = _Inner()
    half = _Half(torch.compile(inner))  # type: ignore[arg-type]
    assert find_layer(half, "backbone.layer4.1").module is inner.layer4[1]
    assert find_layer(half, "backbone.layer4.1").label == "backbone._orig_mod.layer4.1"
    plain = _Half(inner)
    assert find_layer(plain, "backbone._orig_mod.layer4").label == "backbone.layer4"


def test_a_module_that_is_called_module() -> None:
    model = _Half(nn.Module())
    model.backbone.module = nn.ReLU()
    assert find_layer(model, "backbone.module").module is model.backbone.module


def test_an_index_counts_the_models_children() -> None:
    model = _Inner()
    assert find_layer(model, 0).label == "layer4"
    assert find_layer(model, -2).label == "layer4"
    assert find_layer(nn.Sequential(nn.ReLU(), nn.Tanh()), 1).label == "1"


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("", "the name of the target layer is empty; pass a name, which `cfcam layers` lists, or None for"),
        ("module.", "the model has no layer 'module.'"),
        (2, "target layer 2 is out of range: the model has 2 children, so that an index is from -2 to 1"),
        (-3, "target layer -3 is out of range: the model has 2 children, so that an index is from -2 to 1"),
        (True, "target layer True is bool; expected a layer's name, index or module, or a list of them"),
        (0.5, "target layer 0.5 is float; expected a layer's name, index or module, or a list of them"),
        ("base_model.model.layer5", "the model has no layer 'base_model.model.layer5'"),
        ([], "an empty list of target layers; expected a layer's name, index or module, or a list of them"),
        (["layer4", ["head"]], r"target layer \['head'\] is a list in a list; expected a layer's name"),
    ],
)
def test_what_is_no_layer(layer: Any, message: str) -> None:
    with pytest.raises(CaptureError, match=f"^{message}"):
        CFCAM(_Inner(), layer)


def test_a_parameter_names_the_layer_that_holds_it() -> None:
    model = _Inner()
    expected = (
        "^target layer must put out a map, got Parameter, a tensor of weights; expected a layer's name, index or "
        r"module, or a list of them; pass the layer that holds it, 'layer4\.0'$"
    )
    with pytest.raises(CaptureError, match=expected):
        CFCAM(model, model.layer4[0].weight)  # type: ignore[arg-type]
    with pytest.raises(
        CaptureError, match=r"got Tensor, a tensor of weights; expected .* or a list of them$"
    ):
        CFCAM(model, torch.zeros(3))  # type: ignore[arg-type]
