"""Cascading randomisation: which layers become random, how, and what the metric compares."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfcam_gpu.errors import ModelError
from cfcam_gpu.metrics.options import MetricOptions
from cfcam_gpu.metrics.randomisation import cascade, layers_from_the_head, randomisation
from cfcam_gpu.metrics.similarity import ssim
from tests.helpers.fixed_maps import Fixed, case_without_blanks, correlation_or_nan, tiny_maps
from tests.helpers.metric_cases import TinyMaps, TinyNet, pictures, tiny_case
from tests.helpers.tolerances import SIMILARITY

OPTIONS = MetricOptions()

IMAGES = pictures(1)


class Backwards(nn.Module):
    """Defined in the reverse of the order it runs in; two owners of parameters that are never called."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.attention = nn.MultiheadAttention(4, 1, batch_first=True)
        self.norm = nn.BatchNorm2d(4)
        self.uncalled = nn.Linear(4, 4)
        self.stem = nn.Conv2d(3, 4, 4, stride=4)
        self.token = nn.Parameter(torch.full((1, 1, 4), 0.5))
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        cells = self.norm(self.stem(images)).flatten(2).transpose(1, 2)
        cells = F.linear(cells, self.uncalled.weight, self.uncalled.bias)
        cells = torch.cat([self.token.expand(len(images), -1, -1), cells], 1)
        logits: Tensor = self.head(self.attention(cells, cells, cells)[0][:, 0])
        return logits


def changed(model: nn.Module, original: nn.Module) -> set[str]:
    """Layers whose parameters differ from the original's, and all of them."""
    before = dict(original.named_parameters())
    return {
        name.rpartition(".")[0]
        for name, parameter in model.named_parameters()
        if not torch.equal(parameter, before[name])
    }


@pytest.mark.parametrize(
    ("net", "order"),
    [
        (TinyNet(), ["classes", "head.2", "features.2", "features.0"]),
        (Backwards(), ["head", "attention.out_proj", "attention", "norm", "stem", "uncalled", ""]),
    ],
    ids=["tiny", "backwards"],
)
def test_layers_come_in_the_reverse_of_the_order_they_run_in(net, order):
    """What is never called goes with the module around it."""
    assert layers_from_the_head(net, IMAGES) == order
    assert all(not module._forward_pre_hooks for module in net.modules())


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        (1, [4]),
        (2, [2, 4]),
        (3, [1, 2, 4]),
        (4, [1, 2, 3, 4]),
        (50, [1, 2, 3, 4]),
    ],
)
def test_stages_grow_from_the_head_down_to_the_input(stages, expected):
    net = TinyNet()
    order = layers_from_the_head(net, IMAGES)
    found = [changed(model, net) for model in cascade(net, IMAGES, stages, 0)]
    assert found == [set(order[:count]) for count in expected]


def test_every_parameter_changes_also_those_without_a_reset():
    net = Backwards()
    # A trained BatchNorm, whose parameters and statistics are not those a new one has.
    attention = net.attention
    for parameter in (net.norm.weight, net.norm.bias, attention.in_proj_bias, attention.out_proj.bias):
        nn.init.normal_(parameter)
    statistics = {"norm.running_mean": torch.full((4,), 3.0), "norm.running_var": torch.full((4,), 7.0)}
    net.load_state_dict(statistics, strict=False)
    before = copy.deepcopy(net.state_dict())
    last = list(cascade(net, IMAGES, 5, 0))[-1]
    assert isinstance(last, Backwards)
    for name, parameter in last.named_parameters():
        assert not torch.equal(parameter, before[name]), name
    assert torch.equal(last.norm.get_buffer("running_mean"), torch.zeros(4))
    assert torch.equal(last.norm.get_buffer("running_var"), torch.ones(4))
    assert 0.05 < last.token.square().mean().sqrt() < 1.5
    torch.testing.assert_close(net.state_dict(), before, atol=0, rtol=0)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_and_the_random_state_stay_as_they_were(training):
    net = TinyNet().train(training)
    before, state = copy.deepcopy(net.state_dict()), torch.random.get_rng_state()
    for model in cascade(net, IMAGES, 5, 0):
        assert model is not net
    torch.testing.assert_close(net.state_dict(), before, atol=0, rtol=0)
    assert all(module.training == training for module in net.modules())
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_seed_decides_the_weights():
    def weights(seed: int) -> Tensor:
        last = list(cascade(TinyNet(), IMAGES, 2, seed))[-1]
        return nn.utils.parameters_to_vector(last.parameters())

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_the_number_of_stages_does_not_change_the_random_model():
    models = [list(cascade(TinyNet(), IMAGES, stages, 0))[-1] for stages in (1, 4)]
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict(), atol=0, rtol=0)


class Uncopyable(TinyNet):
    def __deepcopy__(self, memo: object) -> TinyNet:
        raise RuntimeError("holds a lock")


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (Uncopyable(), r"cannot be copied \(holds a lock\).*leave out the metric 'randomisation'"),
        (nn.Flatten(), "no parameters.*leave out the metric 'randomisation'"),
    ],
    ids=["uncopyable", "without parameters"],
)
def test_models_that_cannot_be_made_random(net, message):
    with pytest.raises(ModelError, match=message):
        next(cascade(net, IMAGES, 5, 0))


def test_randomisation_compares_with_the_clean_map_after_each_stage():
    case = tiny_case()
    values = randomisation(case, OPTIONS)
    for name in ("ssim", "correlation"):
        curve = values[f"randomisation_{name}_curve"]
        assert curve.shape == (3, 4)
        torch.testing.assert_close(values[f"randomisation_{name}"], curve[:, -1], equal_nan=True)
    models = cascade(tiny_maps(case).module, IMAGES, OPTIONS.stages, OPTIONS.seed)
    for stage, model in enumerate(models):
        maps = TinyMaps(model, case.images, case.targets)
        for i, (a, b) in enumerate(zip(maps.of_gradients(maps.gradients), case.heatmaps, strict=True)):
            found = values["randomisation_correlation_curve"][i, stage].item()
            expected = correlation_or_nan(a, b)
            assert found == pytest.approx(expected, abs=SIMILARITY, nan_ok=True)


def test_a_method_that_ignores_the_weights_is_found_out():
    case = case_without_blanks()
    values = randomisation(replace(case, maps=Fixed(case.heatmaps, None, TinyNet())), OPTIONS)
    for value in values.values():
        torch.testing.assert_close(value, torch.ones_like(value))


def test_grad_cam_changes_when_the_weights_do():
    values = randomisation(case_without_blanks(8, size=32), OPTIONS)
    assert values["randomisation_ssim"].mean() < 0.9
    assert values["randomisation_correlation"].nanmean() < 0.5


def test_blank_maps_in_randomisation():
    """A clean one is undefined; a random model's is as zeros, without correlation."""
    case = case_without_blanks()
    clean = replace(case, blank=torch.tensor([True, False, False]))
    assert all(value[0].isnan().all() for value in randomisation(clean, OPTIONS).values())
    still = replace(case, maps=Fixed(torch.zeros_like(case.heatmaps), None, TinyNet()))
    values = randomisation(still, OPTIONS)
    expected = ssim(torch.zeros_like(case.heatmaps), case.heatmaps)
    torch.testing.assert_close(values["randomisation_ssim"], expected)
    assert values["randomisation_correlation"].isnan().all()
