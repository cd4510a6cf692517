"""Maps spread over places that are alike, in a kernel that stores no likeness, against PyTorch in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cfcam_gpu.kernels.likeness import spread_by_likeness
from cfcam_gpu.methods import sharp
from tests.helpers.tolerances import MAP

#: float32 sums over some dozen channels and a hundred places.
CLOSE = MAP / 20


def compare(device, maps, features):
    found = spread_by_likeness(maps.to(device), features.to(device), sharp._ROUNDING).cpu()
    exact = sharp._spread(maps.double(), features.double())
    torch.testing.assert_close(found, exact.float(), rtol=0, atol=CLOSE * float(maps.max()))
    return found


@pytest.mark.parametrize(
    ("shape", "channels", "targets", "scale"),
    [((1, 1), 3, 1, 1.0), ((5, 9), 1, 2, 1.0), ((9, 9), 33, 17, 1e-8), ((14, 14), 70, 1, 1e8)],
)
def test_the_spread_is_pytorchs(device, shape, channels, targets, scale):
    """Features far from zero mean; more places than a tile has."""
    generator = torch.Generator().manual_seed(targets)
    features = scale * (3 + torch.randn(2, channels, *shape, generator=generator))
    compare(device, torch.rand(2, targets, *shape, generator=generator), features)


def test_real_features(device, real_features):
    """A photo at an earlier layer of 28x28 places."""
    activations, gradients = (features[:1] for features in real_features("_blocks.4"))
    assert activations.shape[2:] == (28, 28)
    found = compare(device, (activations * gradients[:, 0]).sum(1, keepdim=True).relu(), activations)
    assert found.max() > 0


def test_more_targets_than_are_spread_at_once(device):
    generator = torch.Generator().manual_seed(1)
    compare(device, torch.rand(1, 33, 3, 3, generator=generator), torch.rand(1, 5, 3, 3, generator=generator))


def test_places_without_features_and_equal_places(device):
    """Dead places get nothing; where all places are equal no correlation is defined, and the map is blank."""
    features = torch.zeros(2, 3, 2, 2)
    features[0, :, 0] = torch.tensor([[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]])
    features[1] = 0.1 + torch.tensor([5.1, 0.3, 7.7])[:, None, None]
    found = spread_by_likeness(torch.ones(2, 1, 2, 2).to(device), features.to(device), sharp._ROUNDING).cpu()
    assert found[0].max() == 1
    assert not found[1].any()


def test_nan_stays_in_its_image(device):
    features = torch.rand(2, 5, 3, 3, generator=torch.Generator().manual_seed(1))
    expected = compare(device, torch.ones(2, 1, 3, 3), features)
    features[1, 0, 0, 0] = torch.nan
    found = spread_by_likeness(torch.ones(2, 1, 3, 3).to(device), features.to(device), sharp._ROUNDING).cpu()
    assert torch.equal(found[0], expected[0])
    assert found[1].isnan().all()


def in_tf32(values: Tensor) -> Tensor:
    """float32 with the 10 bits of mantissa that tensor cores read."""
    return (values.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32)


def test_three_products_of_tf32_are_as_good_as_float32():
    """What `tf32x3` computes; the interpreter computes in float32. One product alone would miss the contract."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(1, 256, 14, 14, generator=generator).relu()
    maps = torch.rand(1, 1, 196, generator=generator).double()
    unit = sharp._unit(features.double().flatten(2)).float()
    exact = sharp._unit(features.double().flatten(2)).mT @ sharp._unit(features.double().flatten(2))
    high = in_tf32(unit)
    low = in_tf32(unit - high)
    one = high.double().mT @ high.double()
    three = one + high.double().mT @ low.double() + low.double().mT @ high.double()

    def spread(cosines: Tensor) -> Tensor:
        likeness = cosines.relu() ** 2
        return (maps * likeness).sum(2) / likeness.sum(2)

    errors = [float((spread(cosines) - spread(exact)).abs().max()) for cosines in (one, three)]
    assert errors[1] < CLOSE
    assert errors[1] < errors[0] / 10
