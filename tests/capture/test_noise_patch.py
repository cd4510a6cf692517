"""The noise-patch test on maps whose answer is known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cfcam_gpu.capture.layouts import ChannelsFirst, ChannelsLast, Tokens
from cfcam_gpu.capture.noise_patch import Locality, localities, locality, noise_patches


def maps(size: tuple[int, int] = (48, 64)) -> torch.Tensor:
    """(10,8,6,8): what a convolution makes of the patches."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 8, stride=8), nn.ReLU())(
        noise_patches(torch.zeros(3, *size))
    ).detach()


def test_a_convolution_changes_where_the_picture_does():
    result = locality(maps())
    assert result.is_map
    assert result.agreement > 0.6


def test_cells_in_another_order_do_not():
    order = torch.randperm(48, generator=torch.Generator().manual_seed(1))
    shuffled = maps().flatten(2)[:, :, order].unflatten(2, (6, 8))
    assert not locality(shuffled).is_map
    assert not locality(maps().flip(2, 3)).is_map  # each axis the wrong way round
    assert locality(maps().flip(2, 3)).agreement < -0.6


def test_rows_and_columns_must_both_follow():
    one_axis = maps().mean(3, keepdim=True).expand(-1, -1, -1, 8) + 1e-3 * torch.rand(10, 8, 6, 8)
    assert not locality(one_axis).is_map


def test_a_change_that_is_everywhere_is_subtracted():
    """A gate that each patch opens a little changes every cell, and the map is still a map."""
    gates = 1 + torch.arange(10.0).view(10, 1, 1, 1)
    assert locality(maps() * gates).is_map


@pytest.mark.parametrize("output", [torch.ones(10, 4, 6, 8), torch.full((10, 4, 6, 8), torch.nan)])
def test_what_does_not_change_or_is_not_finite_tells_nothing(output):
    assert locality(output) == Locality(0.0, 0.0)


def test_a_uniform_change_is_spread():
    change = torch.rand(10, 4, 1, 1).expand(10, 4, 6, 8)
    result = locality(change + 0.0)
    assert result.is_spread
    assert not result.is_map


@pytest.mark.parametrize(
    ("agreement", "strength", "is_map", "is_spread"),
    [
        (0.5, 0.5, True, False),
        (0.3, 0.5, False, False),
        (0.5, 0.03, False, True),
        (0.9, 0.03, True, False),
        (0.9, 0.002, False, True),
    ],
)
def test_weak_changes_must_agree_more(agreement, strength, is_map, is_spread):
    result = Locality(agreement, strength)
    assert (result.is_map, result.is_spread) == (is_map, is_spread)


def test_the_layout_that_follows_the_patches():
    """Of a cube as many channels as rows and columns, and of tokens with some before the map."""
    first = maps((64, 64))
    last = first.permute(0, 2, 3, 1).contiguous()
    results = localities(last, [ChannelsFirst(), ChannelsLast()])
    assert [layout.name for layout, result in results.items() if result.is_map] == ["nhwc"]
    tokens = torch.cat([torch.rand(10, 3, 8), first.flatten(2).transpose(1, 2)], dim=1)
    assert localities(tokens, [Tokens((8, 8), 3)])[Tokens((8, 8), 3)].is_map
    assert localities(tokens, [Tokens((8, 8), 2)]) == {}
