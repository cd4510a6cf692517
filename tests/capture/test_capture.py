"""Capture: the right activations and gradients from every kind of layer, caller and precision."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfcam_gpu import CFCAM, CaptureError
from cfcam_gpu.capture import capture
from cfcam_gpu.capture.layers import find_layer
from tests.helpers.capture_net import Net


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
    gradient = outputs[-1].grad
    assert gradient is not None
    return outputs[-1].detach(), gradient


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


@pytest.mark.parametrize("method", ["gradcam", "gradcam-fine"])
@pytest.mark.parametrize("caller", [torch.no_grad, torch.inference_mode])
def test_a_layer_is_chosen_for_callers_without_gradients(net, images, caller, method):
    expected = CFCAM(net, method=method)(images, targets=1).heatmap
    with caller():
        found = CFCAM(net, method=method)(images, targets=1).heatmap
        assert not torch.is_grad_enabled()
    torch.testing.assert_close(found, expected)


def test_small_gradients_of_a_float16_head_do_not_vanish(images):
    model = Net().eval()
    model.fc.weight.data.fill_(3e-6)
    exact = capture(model, find_layer(model, "relu"), images, 1).gradients
    half = capture(model.half(), find_layer(model, "relu"), images.half(), 1).gradients
    assert (half != 0).all()
    torch.testing.assert_close(half, exact, rtol=0.1, atol=0)


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
    "no function": (
        Net,
        "relu:gelu",
        r"'relu:gelu': the model does not call gelu on the output of 'relu'; leave",
    ),
    "off the path": (OffPath, "unused", r"does not depend on layer 'unused' \(no gradient reaches it\)"),
    "detached": (Detached, "relu", r"does not depend on layer 'relu'"),
    "not a map": (
        Net,
        "fc",
        r"'fc' must put out a floating-point tensor \(B,C,h,w\), \(B,h,w,C\) .* got a float32 tensor of shape",
    ),
    "zero gradient": (Saturated, "relu", r"image 0: the gradient of the target score is zero everywhere"),
    "batch changed": (Merging, "relu", r"'relu' put out 9 maps for 3 images"),
    "unknown": (Net, "con1", r"no layer 'con1'; did you mean .*conv1"),
    "empty name": (Net, "", r"the name of the target layer is empty"),
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
