"""The model comes back as it was, and is explained in the right state whatever state it is in."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import nn

from cfcam_gpu import CFCAM, CaptureError
from cfcam_gpu._utils.undo import Undo
from cfcam_gpu.capture.model_state import check_between, unwrapped
from tests.helpers.capture_net import Net


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
    net.conv1.weight.requires_grad = False
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
    assert torch.equal(CFCAM(net.requires_grad_(requires_grad=False), "relu")(images).heatmap, expected)


@pytest.mark.parametrize("how", ["torch.compile", "Module.compile", "part"])
def test_compiled_models_are_explained_through_the_module_inside(net, images, how):
    expected = CFCAM(net, "relu")(images, targets=1).heatmap
    model: nn.Module = net
    if how == "torch.compile":
        model = cast(nn.Module, torch.compile(net, backend="eager"))
    elif how == "Module.compile":
        net.compile(backend="eager")
    else:
        net.conv1 = torch.compile(net.conv1, backend="eager")
    with torch.no_grad():
        model(images)
    assert torch.equal(CFCAM(model, "relu")(images, targets=1).heatmap, expected)


def test_a_model_made_under_inference_mode_is_an_error(images):
    with torch.inference_mode():
        model = Net()
    with pytest.raises(CaptureError, match=r"created under torch\.inference_mode"):
        CFCAM(model, "relu")(images)


def test_the_check_comes_before_the_pass_and_on_the_cpu_before_each_module(net, images):
    calls: list[int] = []
    undo = Undo()
    check_between(net, images.device, lambda: calls.append(1), undo)
    assert len(calls) == 1
    net(images)
    undo.run()
    # The model itself, two convolutions, two norms, the ReLU twice and the linear layer.
    assert len(calls) == 1 + 8
    net(images)
    check_between(net, torch.device("cuda"), lambda: calls.append(1), undo)
    net(images)
    assert len(calls) == 1 + 8 + 1
    assert not any(module._forward_pre_hooks for module in net.modules())


def test_a_wrapped_model_is_its_module(net):
    assert unwrapped(cast(nn.Module, torch.compile(nn.DataParallel(net)))) is net
