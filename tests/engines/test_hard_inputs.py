"""Inputs that break careless code: tiny layers, dead or equal channels, extreme scales, NaN, blank maps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cfcam_gpu import CFCAM, PRESETS, CFCAMConfig, ConfigError, InvalidImagesError, explain_activations
from cfcam_gpu.config import EPS_FLOOR, FILTERS
from tests.helpers.features import FAST, REFERENCE, assert_equivalent, blobs, clusters_of, one_image


def rand(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)))


def half_dead() -> Tensor:
    activations = rand(2, 64, 7, 7)
    activations[:, ::2] = 0
    return activations


HARD = {
    "one channel": rand(2, 1, 7, 7),
    "two channels": rand(2, 2, 7, 7),
    "three channels": rand(2, 3, 7, 7),
    "1x1": rand(2, 40, 1, 1),
    "1xn": rand(2, 40, 1, 9),
    "nx1": rand(2, 40, 9, 1),
    "not square": rand(2, 63, 5, 9),
    "all equal": rand(2, 1, 7, 7).expand(2, 40, 7, 7).contiguous(),
    "all constant": torch.ones(2, 40, 7, 7),
    "all dead": torch.zeros(2, 40, 7, 7),
    "half dead": half_dead(),
    "one alive": torch.cat([rand(2, 1, 7, 7), torch.zeros(2, 39, 7, 7)], 1),
    "huge": 1e6 * rand(2, 40, 7, 7),
    "tiny": 1e-6 * rand(2, 40, 7, 7),
    "negative": -rand(2, 40, 7, 7),
}


@pytest.mark.parametrize("run", FAST, ids=str)
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", HARD)
def test_engines_agree_on_hard_inputs(run, preset, name):
    gradients = torch.randn(HARD[name].shape, generator=torch.Generator().manual_seed(0))
    assert_equivalent(run, HARD[name], gradients, CFCAMConfig.preset(preset), size=(20, 30))


@pytest.mark.parametrize("filter_name", FILTERS)
@pytest.mark.parametrize("name", HARD)
def test_every_value_is_finite_and_in_range(filter_name, name):
    gradients = torch.randn(HARD[name].shape, generator=torch.Generator().manual_seed(0))
    result = explain_activations(HARD[name], gradients, (20, 30), CFCAMConfig(filter=filter_name))
    assert result.heatmap.isfinite().all()
    assert ((result.heatmap >= 0) & (result.heatmap <= 1)).all()
    assert torch.equal(result.blank, result.heatmap.amax((1, 2)) == 0)
    assert ((result.heatmap.amax((1, 2)) == 1) | result.blank).all()


def test_half_dead_channels_put_eps_at_its_floor_and_the_dead_together():
    result = explain_activations(half_dead(), torch.ones(2, 64, 7, 7), (7, 7), CFCAMConfig(eps_percentile=10))
    clusters = clusters_of(result)
    assert clusters.eps.tolist() == [EPS_FLOOR, EPS_FLOOR]
    assert (clusters.labels[:, ::2] == 0).all()


def test_fewer_than_two_channels_left_are_noise():
    """Three channels, two of them dominant: one is left, and one point is no cluster."""
    activations = torch.tensor([1.0, 3.0, 3.0])[None, :, None, None].expand(1, 3, 2, 2)
    result = explain_activations(activations, torch.ones(1, 3, 2, 2), (2, 2))
    assert clusters_of(result).labels.tolist() == [[-1, -2, -2]]
    assert clusters_of(result).n_clusters.tolist() == [0]
    assert result.noise_fraction is not None
    assert float(result.noise_fraction[0]) == pytest.approx(1 / 3)


def test_scaling_gradients_by_a_power_of_two_does_not_change_an_unfiltered_map():
    activations, gradients = blobs(2, 40, 6, 5, clusters=3)
    config = CFCAMConfig(filter="none")
    maps = [explain_activations(activations, s * gradients, (12, 10), config).heatmap for s in (1, 2.0**-40)]
    torch.testing.assert_close(maps[0], maps[1])


def test_negative_weights_only_make_a_blank_map_that_is_flagged():
    result = explain_activations(rand(2, 40, 7, 7), -torch.ones(2, 40, 7, 7), (20, 20))
    assert result.blank.all()
    assert not result.heatmap.any()
    assert result.status.tolist() == [0, 0]


@pytest.mark.parametrize("run", [*FAST, REFERENCE], ids=str)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["activations", "gradients"])
def test_a_non_finite_image_is_named_and_leaves_the_others_alone(run, value, where):
    features = dict(zip(("activations", "gradients"), blobs(3, 30, 5, 5, clusters=2), strict=True))
    clean = run.explain(**features, size=(10, 10))
    features[where][1, 4, 2, 2] = value
    with pytest.raises(
        InvalidImagesError, match=rf"image 1: the (layer's )?{where} contain NaN or Inf"
    ) as caught:
        run.explain(**features, size=(10, 10))
    assert list(caught.value.problems) == [1]
    flagged = run.explain(**features, size=(10, 10), on_invalid="flag")
    assert [bool(problem) for problem in flagged.problems] == [False, True, False]
    assert flagged.blank[1]
    assert not flagged.heatmap[1].any()
    for image in (0, 2):
        for name, tensor in one_image(flagged, image).items():
            torch.testing.assert_close(tensor, one_image(clean, image)[name], msg=name)


class Fragile(nn.Module):
    """Its activations are NaN for an image with a negative mean; a class nobody can see has no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(8, 3)
        self.fc.weight.data[2] = 0

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv(x * x.mean((1, 2, 3), keepdim=True).sqrt()))
        return self.fc(x.mean((2, 3)))


def test_the_explainer_names_bad_images_or_flags_them():
    images = torch.rand(3, 3, 9, 9)
    images[1] *= -1
    with pytest.raises(
        InvalidImagesError, match=r"image 1: the layer's activations contain NaN or Inf\. Remove"
    ):
        CFCAM(Fragile(), "relu")(images, targets=0)
    result = CFCAM(Fragile(), "relu", on_invalid="flag")(images, targets=[0, 0, 2])
    assert [bool(problem) for problem in result.problems] == [False, True, True]
    assert "zero everywhere" in (result.problems[2] or "")
    assert result.blank[1:].all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"activations": torch.zeros(2, 3, 4)},
            r"activations must be .*\(B,C,h,w\), got a float32 tensor of shape \(2, 3, 4\)",
        ),
        (
            {"gradients": torch.zeros(2, 3, 4, 5)},
            r"gradients must be .* for activations \(2, 3, 4, 4\), got .*\(2, 3, 4, 5\)",
        ),
        ({"gradients": torch.zeros(1, 3, 4, 4)}, r"gradients must be"),
        (
            {"activations": torch.zeros(2, 3, 4, 4, dtype=torch.int64)},
            r"floating-point tensor .* got a int64 tensor",
        ),
        ({"gradients": torch.zeros(2, 0, 3, 4, 4)}, r"must not be empty"),
        ({"size": (0, 4)}, r"size must be \(H, W\), two positive integers, got \(0, 4\)"),
        ({"size": (4.0, 4)}, r"size must be"),
        ({"on_invalid": "skip"}, r"on_invalid must be 'raise' or 'flag', got 'skip'"),
    ],
)
def test_features_that_do_not_fit_are_errors(change, message):
    arguments = {"activations": torch.zeros(2, 3, 4, 4), "gradients": torch.zeros(2, 3, 4, 4), "size": (4, 4)}
    with pytest.raises(ConfigError, match=message):
        explain_activations(**{**arguments, **change})


def test_no_value_is_read_back_to_the_host_off_the_cpu():
    """On the meta device tensors have no values: any look at the data is an error there, as it is a wait on a GPU."""
    activations, gradients = (torch.rand(2, 40, 7, 7, device="meta") for _ in range(2))
    for preset in PRESETS:
        result = explain_activations(
            activations, gradients, (14, 14), CFCAMConfig.preset(preset), engine="torch", on_invalid="flag"
        )
        assert result.heatmap.shape == (2, 14, 14)
