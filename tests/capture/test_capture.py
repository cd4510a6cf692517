"""Capture: right values from every kind of model and caller, and a model that comes back as it was."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfcam_gpu import CFCAM, CaptureError, CFCAMConfig, TargetError
from cfcam_gpu.capture import capture
from cfcam_gpu.capture.layers import find_layer


class Net(nn.Module):
    """Two convolutions, an in-place ReLU after each (one module, called twice), a pooled head."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.bn2 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(8, classes)
        self.unused = nn.Conv2d(8, 8, 1)

    def features(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3)))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    model = Net()
    model.bn1.running_mean.normal_()
    model.bn2.running_var.uniform_(0.5, 2)
    return model.eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 12, 10, generator=torch.Generator().manual_seed(1))


def full_graph(model: nn.Module, layer: nn.Module, images: Tensor, target: int) -> tuple[Tensor, Tensor]:
    """Activations and gradients the plain way: the whole graph, `retain_grad` on the layer's last output."""
    outputs: list[Tensor] = []

    def keep(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
        output.retain_grad()
        outputs.append(output)
        return output.clone()

    handle = layer.register_forward_hook(keep)
    with torch.enable_grad():
        output = model(images.clone().requires_grad_())
    (output if isinstance(output, Tensor) else output.logits)[:, target].sum().backward()
    handle.remove()
    model.zero_grad()
    return outputs[-1].detach(), outputs[-1].grad


@pytest.mark.parametrize("name", ["conv1", "bn2", "relu"])
def test_matches_the_full_graph(net, images, name):
    """Before and after an in-place ReLU, and a module called twice, of which the last call counts."""
    layer = net.get_submodule(name)
    activations, gradients = full_graph(net, layer, images, target=2)
    captured = capture(net, find_layer(net, name), images, 2)
    torch.testing.assert_close(captured.activations, activations)
    torch.testing.assert_close(captured.gradients[:, 0], gradients)
    torch.testing.assert_close(captured.logits, net(images))
    assert captured.calls == (2 if name == "relu" else 1)


@pytest.mark.parametrize("calls", [2, 1, 5])
def test_knowing_the_number_of_calls_changes_nothing_even_when_wrong(net, images, calls):
    layer = find_layer(net, "relu")
    plain, told = capture(net, layer, images, 1), capture(net, layer, images, 1, calls)
    torch.testing.assert_close(told.gradients, plain.gradients)
    torch.testing.assert_close(told.activations, plain.activations)


def test_several_targets_share_one_forward_pass(net, images):
    runs = []
    net.conv1.register_forward_hook(lambda *_: runs.append(1))
    captured = capture(net, find_layer(net, "relu"), images, torch.tensor([[0, 3], [1, 2], [2, 2]]))
    assert len(runs) == 1
    for k, classes in enumerate(([0, 1, 2], [3, 2, 2])):
        alone = capture(net, find_layer(net, "relu"), images, classes)
        torch.testing.assert_close(captured.gradients[:, k], alone.gradients[:, 0])


TARGETS = {
    "int": (1, [1, 1, 1]),
    "list": ([0, 3, 2], [0, 3, 2]),
    "tensor": (torch.tensor([0, 3, 2]), [0, 3, 2]),
    "int32 tensor": (torch.tensor([0, 3, 2], dtype=torch.int32), [0, 3, 2]),
    "function": (lambda logits: logits[2], [2, 2, 2]),
    "functions": ([lambda logits: logits[0], lambda logits: logits[3], lambda logits: logits[2]], [0, 3, 2]),
}


@pytest.mark.parametrize("name", TARGETS)
def test_each_kind_of_target(net, images, name):
    targets, meant = TARGETS[name]
    layer = find_layer(net, "relu")
    captured = capture(net, layer, images, targets)
    for index, target in enumerate(meant):
        alone = capture(net, layer, images[index, None], target)
        torch.testing.assert_close(captured.gradients[index], alone.gradients[0])
    assert captured.targets is None if "function" in name else captured.targets.tolist() == meant


def test_no_target_means_the_highest_logit(net, images):
    assert torch.equal(capture(net, find_layer(net, "relu"), images).targets, net(images).argmax(1))


BAD_TARGETS = {
    "too few": ([1, 2], r"expected targets of shape \(3,\) or \(3, K\), got \(2,\)"),
    "too large": (4, r"targets must be from 0 to 3 for this model, got 4$"),
    "negative": ([0, -1, 2], r"targets must be from 0 to 3 for this model, got -1$"),
    "float": (torch.zeros(3), r"targets must be integers, got dtype torch.float32"),
    "bool": (True, r"targets must be integers"),
    "text": ("cat", r"targets must be class indices, one or K for each image, got 'cat'"),
    "ragged": ([[1], [1, 2], [0]], r"targets must be class indices"),
    "three axes": (torch.zeros(3, 1, 1, dtype=torch.int64), r"got \(3, 1, 1\)"),
    "no targets": (torch.zeros(3, 0, dtype=torch.int64), r"got \(3, 0\)"),
    "too few functions": ([lambda logits: logits[0]], r"expected one function per image \(3\), got 1"),
    "mixed": ([0, lambda logits: logits[0], 1], r"do not mix functions and classes"),
    "function of many numbers": (
        lambda logits: logits,
        r"must return one number as a tensor, got a float32 tensor",
    ),
    "function of a float": (lambda logits: 1.0, r"must return one number as a tensor, got a float"),
}


@pytest.mark.parametrize("name", BAD_TARGETS)
def test_wrong_targets_are_errors(net, images, name):
    targets, message = BAD_TARGETS[name]
    with pytest.raises(TargetError, match=message):
        capture(net, find_layer(net, "relu"), images, targets)


@pytest.mark.parametrize("caller", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_callers_without_gradients(net, images, caller):
    expected = capture(net, find_layer(net, "relu"), images, 1).gradients
    with caller():
        fresh = images.clone()  # under inference_mode: an inference tensor
        result = CFCAM(net, "relu")(fresh, targets=1)
        captured = capture(net, find_layer(net, "relu"), fresh, 1)
    torch.testing.assert_close(captured.gradients, expected)
    assert result.heatmap.max() == 1
    assert not result.heatmap.is_inference()


def snapshot(model: nn.Module) -> dict[str, object]:
    return {
        "training": [m.training for m in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "grad": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "hooks": [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for m in model.modules()
        ],
        "buffers": [b.clone() for b in model.buffers()],
    }


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_comes_back_as_it_was(net, images, fails):
    net.train()
    net.bn1.eval()
    net.conv1.weight.requires_grad_(False)
    net(images).sum().backward()
    net.bn2.register_forward_hook(lambda *_: None)
    before, grad_mode = snapshot(net), torch.is_grad_enabled()
    if fails:
        with pytest.raises(ZeroDivisionError), CFCAM(net, "relu") as cam:
            cam(images, targets=lambda logits: logits[0] / (1 // 0))
    else:
        with CFCAM(net) as cam:
            cam(images, targets=1)
    after = snapshot(net)
    for name in before:
        torch.testing.assert_close(after[name], before[name], msg=name)
    assert torch.is_grad_enabled() == grad_mode


def test_a_model_in_training_mode_is_explained_in_eval_mode(net, images):
    expected = CFCAM(net, "relu")(images).heatmap
    assert torch.equal(CFCAM(net.train(), "relu")(images).heatmap, expected)


def test_frozen_models(net, images):
    expected = CFCAM(net, "relu")(images).heatmap
    assert torch.equal(CFCAM(net.requires_grad_(False), "relu")(images).heatmap, expected)


def test_channels_last(net, images):
    expected = CFCAM(net, "relu")(images).heatmap
    found = CFCAM(net.to(memory_format=torch.channels_last), "relu")(
        images.to(memory_format=torch.channels_last)
    )
    torch.testing.assert_close(found.heatmap, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.02), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("how", ["converted", "autocast"])
def test_half_precision_models_cluster_in_float32(net, images, dtype, tolerance, how):
    expected = CFCAM(net, "relu")(images, targets=1)
    if how == "converted":
        found = CFCAM(net.to(dtype), "relu")(images, targets=1)
    else:
        with torch.autocast("cpu", dtype):
            found = CFCAM(net, "relu")(images, targets=1)
            assert torch.is_autocast_enabled("cpu")
    assert found.heatmap.dtype == found.grid.dtype == torch.float32
    torch.testing.assert_close(found.heatmap, expected.heatmap, rtol=0, atol=tolerance)


def test_small_gradients_of_a_float16_head_do_not_vanish(images):
    model = Net().eval()
    model.fc.weight.data.fill_(3e-6)
    exact = capture(model, find_layer(model, "relu"), images, 1).gradients
    half = capture(model.half(), find_layer(model, "relu"), images.half(), 1).gradients
    assert (half != 0).all()
    torch.testing.assert_close(half, exact, rtol=0.1, atol=0)


def test_the_callers_autocast_and_tf32_do_not_reach_the_clustering(net, images):
    plain = CFCAM(net, "relu")(images, targets=1).heatmap
    try:
        torch.set_float32_matmul_precision("medium")
        assert torch.equal(CFCAM(net, "relu")(images, targets=1).heatmap, plain)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


@dataclass
class Output:
    logits: Tensor


class Wrapped(Net):
    def forward(self, x: Tensor) -> Output:  # type: ignore[override]
        return Output(super().forward(x))


class AsDict(Net):
    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"logits": super().forward(x)}


class Useless(Net):
    def forward(self, x: Tensor) -> list[Tensor]:  # type: ignore[override]
        return [super().forward(x)]


@pytest.mark.parametrize("kind", [Wrapped, AsDict])
def test_outputs_with_logits(net, images, kind):
    model = kind().eval()
    model.load_state_dict(net.state_dict())
    assert torch.equal(CFCAM(model, "relu")(images).heatmap, CFCAM(net, "relu")(images).heatmap)


def test_an_output_without_logits_is_an_error(images):
    with pytest.raises(CaptureError, match=r"tensor of logits or an object with \.logits, got a list"):
        CFCAM(Useless(), "relu")(images)


@pytest.mark.parametrize("how", ["torch.compile", "Module.compile", "part"])
def test_compiled_models_are_explained_through_the_module_inside(net, images, how):
    expected = CFCAM(net, "relu")(images, targets=1).heatmap
    model: nn.Module = net
    if how == "torch.compile":
        model = torch.compile(net, backend="eager")
    elif how == "Module.compile":
        net.compile(backend="eager")
    else:
        net.conv1 = torch.compile(net.conv1, backend="eager")
    with torch.no_grad():
        model(images)
    assert torch.equal(CFCAM(model, "relu")(images, targets=1).heatmap, expected)


class OffPath(Net):
    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        self.unused(features)
        return self.fc(features.mean((2, 3)))


class Detached(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3)).detach())


class Saturated(Net):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.fc(self.features(x).mean((2, 3))) - 1e6)


class Merging(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, 1)[:, None].expand(-1, 3, -1, -1)).view(len(x), -1)


CAPTURE_ERRORS = {
    "not run": (Net, "unused", r"'unused' did not run in the forward pass; choose a layer that takes part"),
    "off the path": (OffPath, "unused", r"does not depend on layer 'unused' \(no gradient reaches it\)"),
    "detached": (Detached, "relu", r"does not depend on layer 'relu'"),
    "not a map": (
        Net,
        "fc",
        r"'fc' must put out a floating-point tensor \(B,C,h,w\), got a float32 tensor of shape",
    ),
    "zero gradient": (Saturated, "relu", r"image 0: the gradient of the target score is zero everywhere"),
    "batch changed": (Merging, "relu", r"'relu' put out 9 maps for 3 images"),
    "unknown": (Net, "con1", r"no layer 'con1'; did you mean .*conv1"),
    "empty name": (Net, "", r"no layer ''"),
    "unknown function": (Net, "bn2:rleu", r"layer 'bn2:rleu': unknown function 'rleu' .did you mean relu"),
}


@pytest.mark.parametrize("name", CAPTURE_ERRORS)
def test_what_cannot_be_captured_is_named(images, name):
    model, layer, message = CAPTURE_ERRORS[name]
    with pytest.raises((CaptureError, ValueError), match=message):
        CFCAM(model(), layer)(images, targets=1)


def test_a_module_of_another_model_is_an_error(net):
    with pytest.raises(CaptureError, match="ReLU is not a module of this Net"):
        CFCAM(net, nn.ReLU())


def test_a_model_made_under_inference_mode_is_an_error(images):
    with torch.inference_mode():
        model = Net()
    with pytest.raises(CaptureError, match=r"created under torch\.inference_mode"):
        CFCAM(model, "relu")(images)


BAD_IMAGES = {
    "no batch axis": (torch.zeros(3, 8, 8), r"got a float32 tensor of shape \(3, 8, 8\).*image\[None\]"),
    "bytes": (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), r"got a uint8 tensor"),
    "empty batch": (torch.zeros(0, 3, 8, 8), r"at least one image"),
    "array": ([[0.0]], r"got a list"),
    "elsewhere": (
        torch.zeros(1, 3, 8, 8, device="meta"),
        r"images are on meta, the model on cpu; call images.to\('cpu'\)",
    ),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_wrong_images_are_errors(net, name):
    images, message = BAD_IMAGES[name]
    with pytest.raises(CaptureError, match=re.compile(message, re.DOTALL)):
        CFCAM(net, "relu")(images)


def test_one_channel_images_and_the_config_reach_the_maps(images):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 80, 2)).eval()
    maps = [CFCAM(model, "1", CFCAMConfig.preset(p))(images[:, :1]).heatmap for p in ("default", "upstream")]
    assert maps[0].shape == (3, 12, 10)
    assert not torch.allclose(maps[0], maps[1])
