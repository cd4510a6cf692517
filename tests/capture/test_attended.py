"""Queries, keys and values are told by what becomes of them, whatever their modules are called."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cfcam_gpu import CFCAM
from cfcam_gpu.capture import list_layers
from cfcam_gpu.capture.trace import trace


class Reader(nn.Module):
    """Tokens of an image, of which a learned token reads through attention; the last layers are keys and values."""

    def __init__(self, attention: str) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.mix = nn.Sequential(*(nn.Linear(8, 8) for _ in range(6)))
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.head = nn.Linear(8, 5)
        self.kind = attention

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.mix(self.patches(images).flatten(2).transpose(1, 2))
        keys, values = self.first(tokens), self.second(tokens)
        query = self.token.expand(len(images), -1, -1)
        if self.kind == "sdpa":
            read = nn.functional.scaled_dot_product_attention(query, keys, values)
        elif self.kind == "einsum":
            scores = torch.einsum("bqc,bkc->bqk", query, keys) * 8**-0.5
            read = torch.einsum("bqk,bkc->bqc", [scores.softmax(-1), values])
        else:
            keys, values = (x.view(len(x), -1, 2, 4).transpose(1, 2) for x in (keys, values))
            query = query.view(len(query), 1, 2, 4).transpose(1, 2)
            weights = nn.functional.softmax((query * 0.5) @ keys.transpose(-2, -1) + 0.1, dim=-1)
            read = (nn.functional.dropout(weights, 0.0) @ values).transpose(1, 2).flatten(2)
        return self.head(read[:, 0])


@pytest.mark.parametrize("attention", ["sdpa", "einsum", "heads"])
def test_keys_and_values_are_no_maps(attention):
    torch.manual_seed(0)
    model, images = Reader(attention).eval(), torch.randn(1, 3, 16, 24)
    attended = {call.name for call in trace(model, images).calls if call.attended}
    assert attended == {"first", "second"}
    notes = {layer.name: layer.note for layer in list_layers(model, images)}
    assert notes["second"] == "queries, keys or values"
    cam = CFCAM(model)
    cam(images, targets=1)
    assert cam.layer_name == "mix"


def test_tokens_that_are_pooled_with_weights_are_a_map():
    """Weights that a linear layer makes are no attention: the tokens that they pool may be explained."""

    class Pooled(Reader):
        def forward(self, images: Tensor) -> Tensor:
            tokens = self.first(self.patches(images).flatten(2).transpose(1, 2))
            weights = self.second(tokens)[..., :1].softmax(1)
            return self.head((weights.transpose(1, 2) @ tokens)[:, 0])

    torch.manual_seed(0)
    model, images = Pooled("").eval(), torch.randn(1, 3, 16, 24)
    assert not any(call.attended for call in trace(model, images).calls)
    cam = CFCAM(model)
    cam(images, targets=1)
    assert cam.layer_name == "second"


def test_a_tensor_that_is_passed_on_and_left_there_is_no_candidate():
    """The score depends on it where it was made, not where a block passes it on."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, passed: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            return passed, self.conv(x).relu()

    class Passing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 3, padding=1)
            self.block = Block()
            self.head = nn.Linear(4, 2)

        def forward(self, images: Tensor) -> Tensor:
            x = self.stem(images)
            return self.head(self.block(x, x)[1].mean((2, 3)))

    torch.manual_seed(0)
    cam = CFCAM(Passing().eval(), method="gradcam")
    cam(torch.randn(1, 3, 8, 8), targets=1)
    assert cam.layer_name == "block.conv:relu"
