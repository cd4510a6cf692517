"""The evidence of `cfcam-sharp` in kernels against PyTorch in float64."""

from __future__ import annotations

import pytest
import torch

from cfcam_gpu.cfcam.maps import over_maximum
from cfcam_gpu.kernels.evidence import agreeing_evidence
from cfcam_gpu.methods.sharp import _agreeing
from tests.helpers.tolerances import MAP

#: float32 sums over some dozen channels and a hundred cells.
CLOSE = MAP / 20


def inputs(shape, channels=11, scale=1.0, seed=0):
    """Two images and two targets; some channels have no positive evidence."""
    generator = torch.Generator().manual_seed(seed)
    activations = torch.rand(2, channels, *shape, generator=generator)
    gradients = scale * torch.randn(2, 2, channels, *shape, generator=generator)
    gradients[:, :, 1::4] = -gradients[:, :, 1::4].abs()
    return activations, gradients, scale * torch.rand(2, 2, *shape, generator=generator)


def compare(device, activations, gradients, maps, cells=None):
    found = agreeing_evidence(activations.to(device), gradients.to(device), maps.to(device), cells).cpu()
    exact = _agreeing(activations.double(), gradients.double(), maps.double())
    assert found.dtype == torch.float32
    torch.testing.assert_close(over_maximum(found), over_maximum(exact).float(), rtol=0, atol=CLOSE)
    return found


@pytest.mark.parametrize(
    ("shape", "channels", "cells"),
    [((1, 1), 3, None), ((5, 9), 1, None), ((5, 9), 63, 16), ((7, 7), 130, None), ((40, 40), 3, None)],
)
def test_the_evidence_is_pytorchs(device, shape, channels, cells):
    activations, gradients, maps = inputs(shape, channels)
    compare(device, activations, gradients, maps, cells)


def test_real_features(device, real_features):
    activations, gradients = (features[:1] for features in real_features("_blocks.10"))
    found = compare(device, activations, gradients, (activations[:, None] * gradients).sum(2).relu())
    assert found.max() > 0


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e15])
def test_squares_of_small_and_large_gradients(device, scale):
    assert compare(device, *inputs((4, 5), scale=scale)).max() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_activations_in_half_precision(device, dtype):
    activations, gradients, maps = inputs((4, 5))
    compare(device, activations.to(dtype), gradients, maps)


def test_no_evidence_and_no_map_give_zeros_and_nan_stays_in_its_image(device):
    activations, gradients, maps = inputs((3, 4))
    gradients[0, 0] = -1
    maps[0, 1] = 0
    found = compare(device, activations, gradients, maps)
    assert not found[0].any()
    activations[1, 2, 0, 0] = torch.nan
    again = agreeing_evidence(activations.to(device), gradients.to(device), maps.to(device)).cpu()
    assert torch.equal(again[0], found[0])
    assert again[1].isnan().any((1, 2)).all()
