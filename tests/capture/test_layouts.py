"""Layouts: how an output's shape is read, and maps that equal what is reshaped by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from cfcam_gpu import CFCAM, CaptureError, ConfigError
from cfcam_gpu.capture import capture, find_layer, with_layout
from cfcam_gpu.capture.layouts import LAYOUTS as TABLE
from cfcam_gpu.capture.layouts import (
    ChannelsFirst,
    ChannelsLast,
    Geometry,
    Layout,
    Reshaped,
    Tokens,
    geometry_of,
    is_channels_first,
    layout_named,
    readings,
)
from cfcam_gpu.capture.model_runner import ModelRunner
from cfcam_gpu.config import LAYOUT_NAMES

timm = pytest.importorskip("timm")


@pytest.mark.parametrize(
    ("shape", "geometry", "expected"),
    [
        ((1, 512, 7, 7), Geometry((224, 224)), [ChannelsFirst()]),
        ((1, 7, 7, 768), Geometry((224, 224)), [ChannelsLast()]),
        ((1, 8, 8, 8), Geometry((64, 64)), [ChannelsFirst(), ChannelsLast()]),
        ((1, 64, 3, 5), Geometry((96, 160)), [ChannelsFirst()]),
        ((1, 3, 5, 64), Geometry((96, 160)), [ChannelsLast()]),
        ((1, 12, 197, 64), Geometry((224, 224)), []),  # (heads, tokens, head size)
        ((1, 8, 26, 27), Geometry((160, 160)), []),
        ((1, 512, 1, 1), Geometry((224, 224)), []),
        ((1, 1000), Geometry((224, 224)), []),
    ],
)
def test_readings_of_four_axes(shape, geometry, expected):
    assert readings(shape, geometry) == expected


@pytest.mark.parametrize(
    ("tokens", "geometry", "map_shape", "prefix"),
    [
        (196, Geometry((224, 224)), (14, 14), 0),
        (197, Geometry((224, 224)), (14, 14), 1),
        (198, Geometry((224, 224)), (14, 14), 2),
        (201, Geometry((224, 224)), (14, 14), 5),
        (281, Geometry((224, 320)), (14, 20), 1),
        (280, Geometry((320, 224)), (20, 14), 0),
        # The grid that the model names wins over a likelier count of prefix tokens: 36 is 6 x 6 as well.
        (37, Geometry((64, 64), grids=((4, 8),), prefix=5), (4, 8), 5),
        # A stage that halved the grid of 15 x 9 patches twice.
        (12, Geometry((60, 36), grids=((15, 9),)), (4, 3), 0),
    ],
)
def test_readings_of_tokens(tokens, geometry, map_shape, prefix):
    assert readings((1, tokens, 64), geometry)[0] == Tokens(map_shape, prefix, geometry.image)


def test_no_reading_of_tokens():
    assert readings((1, 2, 64), Geometry((224, 224))) == []
    with pytest.raises(CaptureError, match=r"2 tokens are no map of a 224x224 image .* reshape_transform"):
        layout_named("tokens", (1, 2, 64), Geometry((224, 224)))


def test_channels_first_is_told_by_the_ratio_of_the_sides():
    assert is_channels_first((1, 8, 6, 5), (12, 10))
    assert is_channels_first((1, 512, 7, 7), (96, 64))  # pooled to a size of its own
    assert not is_channels_first((1, 6, 5, 8), (12, 10))
    assert not is_channels_first((1, 8, 8, 8), (16, 16))


LAYOUTS = {
    "nchw": (ChannelsFirst(), (2, 5, 3, 4), lambda x: x),
    "nhwc": (ChannelsLast(), (2, 3, 4, 5), lambda x: x.permute(0, 3, 1, 2)),
    "tokens": (Tokens((3, 4), 0, (24, 32)), (2, 12, 5), lambda x: x.transpose(1, 2).reshape(2, 5, 3, 4)),
    "prefix": (
        Tokens((3, 4), 5, (24, 32)),
        (2, 17, 5),
        lambda x: torch.stack([x[:, 5 + i] for i in range(12)], 2).view(2, 5, 3, 4),
    ),
    "function": (
        Reshaped(lambda x: x[:, 1:].reshape(len(x), 3, 4, 5).permute(0, 3, 1, 2)),
        (2, 13, 5),
        lambda x: x[:, 1:].transpose(1, 2).reshape(2, 5, 3, 4),
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_maps_and_the_way_back(name):
    layout, shape, by_hand = LAYOUTS[name]
    output = torch.randn(shape)
    maps = layout.maps(output)
    assert torch.equal(maps, by_hand(output))
    assert torch.equal(layout.put_back(maps, output), output)
    changed = layout.put_back(maps * 3, output)
    assert torch.equal(layout.maps(changed), maps * 3)
    # What is no map stays.
    left = torch.ones(shape).sub(layout.put_back(torch.zeros_like(maps), torch.ones(shape)))
    assert int(left.sum()) == maps.numel()
    one = layout.put_back(maps, output[:1])  # several maps with the rest of one image
    assert torch.equal(layout.maps(one), maps)


@pytest.mark.parametrize("name", LAYOUTS)
def test_gradients_flow_through(name):
    layout, shape, by_hand = LAYOUTS[name]
    output = torch.randn(shape, requires_grad=True)
    weights = torch.randn(2, 5, 3, 4)
    (gradient,) = torch.autograd.grad((layout.maps(output) * weights).sum(), output)
    (expected,) = torch.autograd.grad((by_hand(output) * weights).sum(), output)
    assert torch.equal(gradient, expected)


def test_a_function_that_changes_values_has_no_way_back():
    layout = Reshaped(lambda x: x.transpose(1, 2).reshape(len(x), 5, 3, 4) * 2)
    output = torch.randn(2, 12, 5)
    with pytest.raises(CaptureError, match=r"reshape_transform does more than move values"):
        layout.put_back(layout.maps(output), output)


def test_a_function_must_return_maps():
    with pytest.raises(
        CaptureError, match=r"must return a tensor \(B,C,h,w\), for an output of shape \(2, 3\)"
    ):
        Reshaped(lambda x: x).maps(torch.zeros(2, 3))


def vit(prefix: int, size: tuple[int, int] = (32, 48), pool: str = "token", depth: int = 3) -> nn.Module:
    """A small vision transformer with patches of 8, and weights that do not vanish."""
    torch.manual_seed(0)
    model = timm.models.VisionTransformer(
        img_size=size,
        patch_size=8,
        embed_dim=24,
        depth=depth,
        num_heads=3,
        num_classes=7,
        class_token=prefix > 0,
        reg_tokens=max(0, prefix - 1),
        global_pool=pool if prefix else "avg",
    )
    return lively(model)


def lively(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def swin(size: tuple[int, int] = (32, 64)) -> nn.Module:
    torch.manual_seed(0)
    return lively(
        timm.models.SwinTransformer(
            img_size=size,
            patch_size=2,
            embed_dim=12,
            depths=(1, 2),
            num_heads=(2, 3),
            window_size=4,
            num_classes=7,
        )
    )


def grad_cam(
    model: nn.Module, module: nn.Module, images: Tensor, target: int, maps: Callable[[Tensor], Tensor]
) -> Tensor:
    """Grad-CAM the plain way: the whole graph, and a reshape written by hand."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _arguments: object, output: Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    handle = module.register_forward_hook(keep)
    with torch.enable_grad():
        model(images.clone().requires_grad_())[:, target].sum().backward()
    handle.remove()
    gradient = kept[-1].grad
    assert gradient is not None
    activations, gradients = maps(kept[-1].detach()), maps(gradient)
    model.zero_grad()
    return (gradients.mean((2, 3), keepdim=True) * activations).sum(1).relu()


@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
@pytest.mark.parametrize("size", [(32, 48), (48, 32), (32, 32)])
def test_a_vision_transformer(prefix, size):
    """Its automatic layer, its layout and its map, for any number of prefix tokens and not only squares."""
    model, images = vit(prefix, size), torch.randn(2, 3, *size)
    cam = CFCAM(model, method="gradcam")
    result = cam(images, targets=3)
    # Without a class token the last map counts, with one the tokens before the last attention block.
    assert cam.layer_name == ("blocks.2.norm1" if prefix else "blocks")
    module = model.get_submodule(cam.layer_name)
    h, w = size[0] // 8, size[1] // 8
    expected = grad_cam(
        model, module, images, 3, lambda x: x[:, prefix:].transpose(1, 2).reshape(len(x), 24, h, w)
    )
    torch.testing.assert_close(result.grid, expected, rtol=1e-4, atol=1e-5)
    assert expected.amax() > 0
    single = torch.cat([cam(image[None], targets=3).grid for image in images])
    torch.testing.assert_close(single, result.grid, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(32, 64), (32, 32)])
def test_a_swin_transformer(size):
    model, images = swin(size), torch.randn(2, 3, *size)
    cam = CFCAM(model, method="gradcam")
    result = cam(images, targets=3)
    assert cam.layer_name == "norm"
    expected = grad_cam(model, model.get_submodule("norm"), images, 3, lambda x: x.permute(0, 3, 1, 2))
    assert expected.shape[1:] == (size[0] // 4, size[1] // 4)
    torch.testing.assert_close(result.grid, expected, rtol=1e-4, atol=1e-5)


def test_patches_named_by_the_user():
    """A named layer is read as the automatic one is."""
    model, images = vit(5), torch.randn(2, 3, 32, 48)
    captured = capture(model, find_layer(model, "blocks.1.norm2"), images, 3)
    assert captured.layer.layout == Tokens((4, 6), 5, (32, 48))
    assert captured.activations.shape == (2, 24, 4, 6)
    assert captured.gradients.shape == (2, 1, 24, 4, 6)


class Square(nn.Module):
    """As many channels as rows and columns, channels last inside, so that shapes say nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 4, stride=4)
        self.last = nn.LayerNorm(8)
        self.attention = nn.Identity()
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = self.last(x.permute(0, 2, 3, 1))
        return self.head(x.mean((1, 2)))


def test_a_square_is_told_by_the_patch():
    torch.manual_seed(0)
    model, images = Square().eval(), torch.randn(2, 3, 32, 32)
    assert with_layout(model, find_layer(model, "first"), images).layout == ChannelsFirst()
    assert with_layout(model, find_layer(model, "last"), images).layout == ChannelsLast()
    cam = CFCAM(model, "last", method="gradcam")
    expected = grad_cam(model, model.last, images, 1, lambda x: x.permute(0, 3, 1, 2))
    torch.testing.assert_close(cam(images, targets=1).grid, expected)


def test_a_layout_named_wrongly_is_warned_about_once(caplog):
    model, images = swin(), torch.randn(1, 3, 32, 64)
    cam = CFCAM(model, "norm", layout="nchw")
    cam(images, targets=1)
    cam(images, targets=1)
    assert [record.message for record in caplog.records] == [
        "layer 'norm', read as nchw, does not change where the picture changes, so that its heatmaps may be "
        "wrong; `cfcam layers` lists the layers that do"
    ]


def test_a_tensor_of_attention_is_refused():
    model, images = vit(1, (32, 32)), torch.randn(1, 3, 32, 32)
    with pytest.raises(
        CaptureError, match=r"output of layer 'blocks.1.attn.q_norm', .* \(1, 3, 17, 8\) .* no map"
    ):
        CFCAM(model, "blocks.1.attn.q_norm")(images)


def test_reshape_transform_of_pytorch_grad_cam():
    model, images = vit(1), torch.randn(2, 3, 32, 48)

    def reshape_transform(tensor: Tensor, height: int = 4, width: int = 6) -> Tensor:
        result = tensor[:, 1:, :].reshape(tensor.size(0), height, width, tensor.size(2))
        return result.transpose(2, 3).transpose(1, 2)

    cam = CFCAM(model, "blocks.2.norm1", method="gradcam", reshape_transform=reshape_transform)
    expected = CFCAM(model, "blocks.2.norm1", method="gradcam")(images, targets=2).grid
    torch.testing.assert_close(cam(images, targets=2).grid, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "nwhc"}, r"unknown layout 'nwhc' .did you mean nhwc"),
        ({"reshape_transform": lambda x: x}, r"pass target_layer as well"),
        ({"reshape_transform": lambda x: x, "target_layer": "norm", "layout": "nchw"}, r"pass one of them"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ConfigError, match=message):
        CFCAM(vit(1), **options)


def test_a_layout_that_the_output_does_not_have():
    with pytest.raises(
        CaptureError, match=r"layout 'nhwc' needs an output \(B,h,w,C\), this layer's .*25, 24"
    ):
        CFCAM(vit(1), "norm", layout="nhwc")(torch.randn(1, 3, 32, 48))
    with pytest.raises(CaptureError, match=r"layout 'tokens' needs an output \(B,tokens,C\), this layer's"):
        CFCAM(swin(), "norm", layout="tokens")(torch.randn(1, 3, 32, 64))


@pytest.mark.parametrize("make", [lambda: vit(5), swin])
def test_changed_maps_are_put_back(make):
    """Maps that do not change give the logits; zeros in one place what a hook that writes zeros there gives."""
    model = make()
    size = (32, 48) if hasattr(model, "num_prefix_tokens") else (32, 64)
    images = torch.randn(1, 3, *size)
    cam = CFCAM(model, method="ablationcam")
    features = cam.features(images, targets=1)
    runner, maps = features.runner, features.activations
    assert isinstance(runner, ModelRunner)
    assert isinstance(runner.layer.layout, Layout)
    changed = torch.cat([maps, maps.clone()])
    changed[1, 2] = 0
    logits = runner.logits_of_activations(images, changed)
    torch.testing.assert_close(logits[:1], model(images), rtol=1e-4, atol=1e-5)

    def without(_module: nn.Module, _arguments: object, output: Tensor) -> Tensor:
        output = output.clone()
        prefix = getattr(model, "num_prefix_tokens", 0)
        (output[:, prefix:] if output.ndim == 3 else output)[..., 2] = 0
        return output

    handle = runner.layer.module.register_forward_hook(without)
    expected = model(images)
    handle.remove()
    torch.testing.assert_close(logits[1:], expected, rtol=1e-4, atol=1e-5)
    assert cam.explain(features).grid.shape[1:] == maps.shape[2:]


def test_another_image_size_has_another_map():
    """24 tokens are 4x6 of one size and 6x4 of another."""
    torch.manual_seed(0)
    model = lively(
        timm.models.VisionTransformer(
            img_size=32,
            patch_size=8,
            embed_dim=24,
            depth=2,
            num_heads=3,
            num_classes=5,
            dynamic_img_size=True,
        )
    )
    cam = CFCAM(model)
    for size, grid in (((32, 48), (4, 6)), ((48, 32), (6, 4)), ((32, 32), (4, 4))):
        assert cam(torch.randn(1, 3, *size), targets=1).grid.shape[1:] == grid


def test_geometry_says_what_the_model_says():
    assert geometry_of(vit(5), (32, 48)) == Geometry((32, 48), ((4, 6),), 5)
    assert geometry_of(nn.Conv2d(3, 4, 3), (32, 48)) == Geometry((32, 48))


def test_the_table_has_the_names_of_the_options():
    assert ("auto", *TABLE) == LAYOUT_NAMES


class InTuples(nn.Module):
    """Blocks that put out tuples, as those of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 4, stride=4)
        self.block = self.Block()
        self.head = nn.Linear(6, 4)

    class Block(nn.Module):
        """Tokens and nothing else, in a tuple."""

        def forward(self, x: Tensor) -> tuple[Tensor, None]:
            return x.flatten(2).transpose(1, 2).relu(), None

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.conv(x))[0].mean(1))


def test_the_first_of_a_tuple_is_the_output():
    torch.manual_seed(0)
    model, images = InTuples().eval(), torch.randn(2, 3, 32, 24)
    cam = CFCAM(model, method="gradcam")
    grid = cam(images, targets=1).grid
    assert cam.layer_name == "block"
    activations = model.conv(images).relu()
    expected = (activations * model.head.weight[1][None, :, None, None] / 48).sum(1).relu()
    torch.testing.assert_close(grid, expected.detach())
