"""The model run again: right logits of changed images and of changed layer outputs, for any head, in small chunks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from cfcam_gpu.capture import model_runner
from cfcam_gpu.capture.layers import find_layer
from cfcam_gpu.capture.model_runner import CPU_IMAGES, ModelRunner


class Net(nn.Module):
    """A trunk, a layer called twice, of which the last call counts, and a head that is given."""

    def __init__(self, head: Callable[[Net, Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Conv2d(3, 6, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.mixed = nn.Conv2d(6, 6, 3, padding=1)
        self.behind = nn.Conv2d(6, 5, 3)
        self.fc = nn.Linear(5, 4)
        self.head = head
        self.trunk_images = 0

    def forward(self, images: Tensor) -> Tensor:
        self.trunk_images += len(images)
        before = self.act(self.trunk(images))
        return self.head(self, images, before, self.act(self.mixed(before)))


def plain(net: Net, _images: Tensor, _before: Tensor, layer: Tensor) -> Tensor:
    logits: Tensor = net.fc(net.behind(layer).relu_().mean((2, 3)))
    return logits


def reads_the_batch_size(net: Net, images: Tensor, _before: Tensor, layer: Tensor) -> Tensor:
    logits: Tensor = net.fc(net.behind(layer).mean((2, 3), keepdim=True).view(images.size(0), -1))
    return logits


def goes_around_the_layer(net: Net, _images: Tensor, before: Tensor, layer: Tensor) -> Tensor:
    both = torch.cat([before[:, :3], (layer + before)[:, 3:]], dim=1)
    logits: Tensor = net.fc(net.behind(both).mean((2, 3)))
    return logits


def in_place_into_the_trunk(net: Net, _images: Tensor, before: Tensor, layer: Tensor) -> Tensor:
    before += layer
    logits: Tensor = net.fc(net.behind(before).mean((2, 3)))
    return logits


def looks_at_values(net: Net, _images: Tensor, _before: Tensor, layer: Tensor) -> Tensor:
    scale = 2.0 if float(layer.abs().max()) > 1e9 else 1.0
    logits: Tensor = net.fc(net.behind(layer * scale).mean((2, 3)))
    return logits


#: Head -> whether the image must be repeated.
HEADS = {
    plain: False,
    reads_the_batch_size: False,
    goes_around_the_layer: False,
    in_place_into_the_trunk: True,
    looks_at_values: True,
}


def make(head: Callable[..., Tensor]) -> tuple[Net, ModelRunner, Tensor, Tensor]:
    net = Net(head).eval()
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(1, 3, 8, 9, generator=generator)
    activations = torch.randn(7, 6, 8, 9, generator=generator)
    return net, ModelRunner(net, find_layer(net, "act"), calls=2), images, activations


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.__name__)
def test_logits_of_activations(head):
    net, runner, image, activations = make(head)
    given = activations.clone()
    with torch.no_grad():
        before = net.act(net.trunk(image))
        expected = torch.cat([head(net, image, before.clone(), a.clone()) for a in activations.split(1)])
    net.trunk_images = 0
    found = runner.logits_of_activations(image, activations)
    torch.testing.assert_close(found, expected)
    assert net.trunk_images == (1 + 7 if HEADS[head] else 1)
    assert torch.equal(activations, given)
    assert not net.act._forward_hooks
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_the_layer_after_a_function():
    """`NAME:FUNCTION` is replaced behind the function, and the maps pass as they are."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Identity(), nn.Flatten(), nn.Linear(4 * 4 * 4, 3)).eval()
    net[1].forward = lambda x: x.relu()
    image, activations = torch.randn(1, 3, 6, 6), torch.randn(5, 4, 4, 4)
    runner = ModelRunner(net, find_layer(net, "0:relu"), calls=1)
    torch.testing.assert_close(
        runner.logits_of_activations(image, activations), net[3](activations.flatten(1))
    )


@pytest.mark.parametrize("chunk", [1, 3000, 2**24])
def test_chunks_change_nothing(monkeypatch, chunk):
    net, runner, _, activations = make(plain)
    images = torch.randn(5, 3, 8, 9)
    monkeypatch.setitem(model_runner.CHUNK_BYTES, "cpu", chunk)
    torch.testing.assert_close(runner.logits(images), net(images).detach())
    assert len(runner.logits_of_activations(images[:1], activations)) == 7


def test_what_the_memory_does_not_hold_is_halved():
    net, runner, _, _ = make(plain)
    images, sizes = torch.randn(7, 3, 8, 9), []

    def small(_module: nn.Module, given: tuple[Tensor]) -> None:
        sizes.append(len(given[0]))
        if len(given[0]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    expected = net(images).detach()
    net.register_forward_pre_hook(small)
    torch.testing.assert_close(runner.logits(images), expected)
    assert max(sizes) == 7
    assert min(sizes) >= 1
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_passes_run_under_the_callers_autocast():
    net, _, images, _ = make(plain)
    runner = ModelRunner(net, find_layer(net, "act"), 2, autocast=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        expected = net(images).float()
    assert torch.equal(runner.logits(images), expected.detach())
    assert not torch.equal(runner.logits(images), ModelRunner(net, find_layer(net, "act"), 2).logits(images))


@pytest.mark.parametrize("head", [plain, looks_at_values], ids=lambda head: head.__name__)
def test_a_pass_on_the_cpu_is_short_and_a_check_comes_before_it(head):
    """At most `CPU_IMAGES` images, also where an image is repeated for each of its maps."""
    net, runner, image, activations = make(head)
    passes: list[int] = []
    checks: list[int] = []
    runner = dataclasses.replace(runner, check=lambda: checks.append(len(passes)))
    net.register_forward_pre_hook(lambda _module, arguments: passes.append(len(arguments[0])))
    runner.logits(torch.randn(2 * CPU_IMAGES + 1, 3, 8, 9))
    assert passes == [CPU_IMAGES, CPU_IMAGES, 1]
    assert {0, 1, 2} <= set(checks)
    passes.clear()
    assert len(runner.logits_of_activations(image, activations.repeat(3, 1, 1, 1))) == 21
    assert max(passes) == (CPU_IMAGES if HEADS[head] else 1)
    large = torch.empty(3, 1024, 1024)
    assert runner.images_at_once(large) == runner.at_once(large) == 1
