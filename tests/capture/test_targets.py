"""Every kind of target and of model output, and the errors of wrong ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from cfcam_gpu import CFCAM, CaptureError, TargetError
from cfcam_gpu.capture import capture
from cfcam_gpu.capture.layers import find_layer
from tests.helpers.capture_net import Net

TARGETS: dict[str, tuple[Any, list[int]]] = {
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
    indices = None if captured.targets is None else captured.targets.tolist()
    assert indices == (None if "function" in name else meant)


def test_no_target_means_the_highest_logit(net, images):
    targets = capture(net, find_layer(net, "relu"), images).targets
    assert targets is not None
    assert torch.equal(targets, net(images).argmax(1))


BAD_TARGETS: dict[str, tuple[Any, str]] = {
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
    "function of a float": (lambda _: 1.0, r"must return one number as a tensor, got a float"),
}


@pytest.mark.parametrize("name", BAD_TARGETS)
def test_wrong_targets_are_errors(net, images, name):
    targets, message = BAD_TARGETS[name]
    with pytest.raises(TargetError, match=message):
        capture(net, find_layer(net, "relu"), images, targets)


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
