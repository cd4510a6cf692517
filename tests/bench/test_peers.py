"""Other libraries are timed where they compute plain Grad-CAM, and named with the reason where not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from bench import (
    peers,
)
from tests.helpers.small_benches import Tiny

pytestmark = pytest.mark.usefixtures("tiny")


def test_plain_grad_cam_is_the_gradients_mean_times_the_activations():
    torch.manual_seed(0)
    model, images = Tiny().eval(), torch.randn(2, 3, 16, 16)
    maps, classes = peers.plain_grad_cam(model, "layer4", images)
    activations = model.layer4(images)
    assert torch.equal(classes, model.fc(activations.mean((2, 3))).argmax(1))
    weights = model.fc.weight[classes] / 64  # the head is the mean over 8×8 cells and one matrix product
    grid = torch.einsum("bc,bchw->bhw", weights, activations).relu()
    expected = nn.functional.interpolate(grid[:, None], (16, 16), mode="bilinear")[:, 0]
    torch.testing.assert_close(maps, expected.detach())


def fails(_model: nn.Module, _layer: str) -> Any:
    raise RuntimeError("no hooks\nhere")


@pytest.mark.parametrize(
    ("peer", "reason"),
    [
        (
            peers.Peer("nothing", "no_such_module", fails),
            "not installed (No module named 'no_such_module'); pip install 'cfcam-gpu[peers]'",
        ),
        (peers.Peer("torch", "torch", fails), "fails: RuntimeError: no hooks"),
        (
            peers.Peer("torch", "torch", lambda *_: lambda images, _classes: images[:, 0]),
            "its maps differ from plain",
        ),
    ],
    ids=["missing", "failing", "other maps"],
)
def test_a_peer_that_cannot_be_timed_is_named_with_the_reason(peer, reason, monkeypatch):
    monkeypatch.setattr(peers, "PEERS", {"peer": peer})
    usable, report = peers.checked_peers(Tiny().eval(), "layer4", torch.randn(2, 3, 16, 16))
    assert usable == {}
    assert report["peer"]["not_timed"].startswith(reason)
