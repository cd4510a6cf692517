"""The automatic target layer: the last map larger than 1×1, after its nonlinearity."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

from cfcam_gpu import CFCAM, CaptureError
from cfcam_gpu.capture import capture, choose_layer, find_layer, finer_layer, list_layers

CHOICES = {
    "torchvision:resnet18": "layer4",
    "torchvision:densenet121": "features:relu",  # ends in a bare BatchNorm, then a functional ReLU
    "torchvision:mobilenet_v2": "features",
    "torchvision:efficientnet_b0": "features",
    "torchvision:regnet_y_400mf": "trunk_output",
    "torchvision:shufflenet_v2_x0_5": "conv5",
    "torchvision:convnext_tiny": "features",
    "torchvision:swin_t": "permute",
    "torchvision:vgg11": "features",  # not its avgpool, which makes 7x7 of whatever comes
    "timm:resnet18": "layer4",
    "timm:densenet121": "features",
}


def untrained(spec: str) -> nn.Module:
    """A known architecture with random weights, the same every time; the images drawn next as well."""
    library, _, name = spec.partition(":")
    torch.manual_seed(0)
    if library == "timm":
        return timm.create_model(name, pretrained=False).eval()
    return torchvision.models.get_model(name, weights=None).eval()


@pytest.mark.parametrize("spec", CHOICES)
def test_choice_on_known_architectures(spec):
    model = untrained(spec)
    images = torch.randn(1, 3, 64 if "vgg" not in spec else 96, 64)
    layer = choose_layer(model, images)
    assert layer.label == CHOICES[spec]
    assert capture(model, layer, images, 1).activations.shape[2:] != (1, 1)


def test_choice_on_the_packaged_model(lite0, photo_batch):
    """Its last nonlinearity is one module called more than once; the last call, at 7×7, counts."""
    cam = CFCAM(lite0.model)
    assert cam.layer_name is None
    assert cam(photo_batch[:1]).grid.shape == (1, 7, 7)
    assert cam.layer_name == "_swish"


class Plain(nn.Module):
    """A user's own network: convolution, BatchNorm and a functional activation, then a pooled head."""

    def __init__(self, activation: str, *, norm: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 5, 3)
        self.act = nn.ReLU()
        self.conv = nn.Conv2d(5, 8, 3)
        self.norm = nn.BatchNorm2d(8) if norm else None
        self.fc = nn.Linear(8, 2)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.act(self.stem(x)))
        x = self.norm(x) if self.norm else x
        if self.activation:
            x = getattr(nn.functional, self.activation)(x)
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize(
    ("activation", "norm", "expected"),
    [
        ("relu", True, "norm:relu"),
        ("gelu", False, "conv:gelu"),
        ("", False, "conv"),
        ("", True, "norm"),  # what the head reads
    ],
)
def test_functional_nonlinearities(activation, norm, expected):
    images = torch.randn(2, 3, 9, 9)
    model = Plain(activation, norm=norm).eval()
    cam = CFCAM(model)
    cam(images, targets=1)
    assert cam.layer_name == expected


def test_after_a_function_means_its_output_and_its_gradient():
    model, images = Plain("relu", norm=True).eval(), torch.randn(2, 3, 9, 9)
    captured = capture(model, find_layer(model, "norm:relu"), images, 1)
    before = capture(model, find_layer(model, "norm"), images, 1)
    torch.testing.assert_close(captured.activations, before.activations.relu())
    # The pooled head's gradient is the same everywhere, also where the ReLU is closed.
    expected = (model.fc.weight[1] / 25)[None, None, :, None, None].expand_as(captured.gradients)
    torch.testing.assert_close(captured.gradients, expected.detach())


def test_list_marks_exactly_the_choice():
    model, images = torchvision.models.resnet18().eval(), torch.randn(1, 3, 64, 64)
    layers = list_layers(model, images)
    assert (
        [layer.name for layer in layers if layer.chosen] == [choose_layer(model, images).label] == ["layer4"]
    )
    assert layers[-1].shape == (512, 2, 2)
    assert {"layer1.0.conv1", "layer4.1.relu"} <= {layer.name for layer in layers}
    assert not {"fc", "avgpool"} & {layer.name for layer in layers}


def test_a_model_without_maps_is_an_error():
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    with pytest.raises(
        CaptureError, match=r"no module of this Sequential has a map larger .* pass target_layer"
    ):
        CFCAM(model)(torch.randn(1, 3, 4, 4))


FINER = {
    "torchvision:resnet18": "layer3",
    "torchvision:mobilenet_v2": "features.13",
    "torchvision:regnet_y_400mf": "trunk_output.block3",
    "torchvision:shufflenet_v2_x0_5": "stage3",
    "torchvision:densenet121": "features.denseblock3",
    "torchvision:vgg11": "features.19",
    "timm:resnet18": "layer3",
}


@pytest.mark.parametrize("spec", FINER)
def test_the_finer_layer_ends_the_stage_before(spec):
    model = untrained(spec)
    images = torch.randn(1, 3, 96, 64)
    layer = choose_layer(model, images)
    finer = finer_layer(model, layer, images)
    assert finer.label == FINER[spec]
    small, large = (capture(model, one, images, 1).activations.shape[2:] for one in (layer, finer))
    assert all(n >= 2 * m for n, m in zip(large, small, strict=True))


def test_the_finer_layer_of_the_packaged_model(lite0, photo_batch):
    cam = CFCAM(lite0.model, method="cfcam-fine")
    assert cam(photo_batch[:1]).grid.shape == (1, 14, 14)
    assert cam.finer_layer_name == "_blocks.10"


#: Image size, the chosen layer's map, the finer layer and its map: the stage before, not the stem.
TWICE = {
    "efficientnet_b0": (224, 7, "blocks.4", 14),
    "convnext_atto": (224, 7, "stages.2", 14),
    "coatnet_nano_rw_224": (224, 7, "stages.2", 14),
    "mobilenetv2_100": (224, 7, "blocks.4", 14),
    "mobilevitv2_050": (256, 8, "stages.3", 16),
    "efficientnet-lite1": (240, 8, "_blocks.14", 15),
    "efficientnet-lite2": (260, 9, "_blocks.14", 17),
}


@pytest.mark.parametrize("name", TWICE)
def test_the_finer_layer_has_about_twice_the_resolution(name: str) -> None:
    size, side, label, finer_side = TWICE[name]
    torch.manual_seed(0)
    model = EfficientNet.from_name(name) if "-lite" in name else timm.create_model(name)
    model, images = model.eval(), torch.randn(1, 3, size, size)
    layer = choose_layer(model, images)
    finer = finer_layer(model, layer, images)
    shapes = [tuple(capture(model, one, images, 1).activations.shape[2:]) for one in (layer, finer)]
    assert (finer.label, shapes) == (label, [(side, side), (finer_side, finer_side)])


def test_no_finer_layer_is_an_error():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(CaptureError, match=r"no layer before '1' has maps of twice its resolution \(6x6\)"):
        CFCAM(model, "1", method="cfcam-fine")(torch.rand(1, 3, 8, 8))


def test_the_finer_layer_before_an_alias():
    """A module that the model holds under two names is the same layer under both."""

    class Aliased(nn.Sequential):
        def forward(self, images: Tensor) -> Tensor:
            output: Tensor = nn.Sequential(*list(self)[:5])(images)
            return output

    model = Aliased(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.add_module("alias", model[2])
    assert finer_layer(model, find_layer(model, "alias"), torch.rand(1, 3, 18, 18)).name == "0"
