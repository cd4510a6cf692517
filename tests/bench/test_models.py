"""The survey's check of small models of some forty families: right layer, right map, right layout, finer layer."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

from bench import models
from bench.by_hand import BY_HAND, ByHand, grad_cam

#: Where untrained attention spreads every change, the layer written by hand decides.
FAMILIES = [
    "torchvision:mobilenet_v3_small",
    "torchvision:shufflenet_v2_x0_5",
    "torchvision:squeezenet1_1",
    "timm:cspnext_tiny",
    "timm:coat_tiny",
    "timm:edgenext_xx_small",
    "timm:efficientvim_m1",
    "timm:efficientvit_b0",
    "timm:ese_vovnet19b_slim_dw",
    "timm:levit_128s",
    "timm:mobilenetv3_small_050",
    "timm:mobilevitv2_050",
    "timm:pit_ti_224",
    "timm:pvt_v2_b0",
    "timm:regnetx_002",
    "timm:starnet_s050",
    "timm:test_byobnet",
    "timm:test_coatnet",
    "timm:test_convnext",
    "timm:test_efficientnet",
    "timm:test_mambaout",
    "timm:test_maxvit",
    "timm:test_nfnet",
    "timm:test_resnet",
    "timm:test_vit",
    "timm:test_vit_relpos",
    "timm:xcit_nano_12_p16_224",
    "transformers:BeitForImageClassification",
    "transformers:CLIPForImageClassification",
    "transformers:ConvNextForImageClassification",
    "transformers:CvtForImageClassification",
    "transformers:DeiTForImageClassification",
    "transformers:Dinov2WithRegistersForImageClassification",
    "transformers:FocalNetForImageClassification",
    "transformers:ResNetForImageClassification",
    "transformers:SwinForImageClassification",
    "transformers:Swinv2ForImageClassification",
    "transformers:ViTForImageClassification",
]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_small_model_of_a_family(name):
    record = models.examine(name)
    assert record["verdict"] == "right", record
    stored = json.loads(models.RESULT.read_text())["models"][name]
    same = ("layer", "layout", "prefix", "map", "finer", "finer_map")
    assert {key: record.get(key) for key in same} == {key: stored.get(key) for key in same}
    if name in BY_HAND:
        assert record["by_hand"] <= models.SAME


def test_latents_are_refused():
    """Perceiver's latents are tokens of as many as a map may have, and no places in the picture."""
    record = models.examine("transformers:PerceiverForImageClassificationLearned")
    assert record["verdict"] == "refused"
    assert "changes where the picture changes" in record["message"]


@pytest.mark.parametrize(
    ("single", "by_hand", "agreement", "strength", "verdict"),
    [
        (math.nan, None, 0.7, 0.3, "wrong"),
        (0.0, math.nan, 0.7, 0.3, "wrong"),
        (0.0, None, 0.7, 0.3, "right"),
        (0.0, 0.0, 0.7, 0.3, "right"),
        (0.0, 0.1, 0.7, 0.3, "wrong"),
        (0.1, None, 0.7, 0.3, "wrong"),
        (0.0, None, 0.2, 0.3, "wrong"),
        (0.0, None, 0.7, 0.02, "undecided"),
        (0.0, None, 0.9, 0.02, "right"),
        (0.0, None, 0.9, 0.001, "undecided"),
        (0.0, 0.0, 0.1, 0.01, "right"),
    ],
)
def test_verdicts(single, by_hand, agreement, strength, verdict):
    record = {"single": single, "maps": 8, "blank": 7} | ({} if by_hand is None else {"by_hand": by_hand})
    local = models.Locality(agreement, strength)
    assert models._verdict(record, local) == verdict
    # Blank maps agree with anything.
    assert models._verdict({**record, "blank": 8}, local) == "wrong"


def test_the_layer_written_by_hand_is_read_by_hand():
    """Grad-CAM at a convolution before a pooled head: the head's weights times the activations."""
    torch.manual_seed(0)
    head = nn.Linear(5, 3)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    images = torch.randn(2, 3, 6, 8)
    expected = torch.einsum("c,bchw->bhw", head.weight[2] / 24, model[:2](images)).relu()
    torch.testing.assert_close(grad_cam(model, ByHand("1"), images, 2), expected.detach())
    tokens = torch.arange(2 * 7 * 4.0).view(2, 7, 4)
    assert torch.equal(ByHand("", "tokens", 1).maps(tokens, (16, 24))[1, 2, 1], tokens[1, 4:, 2])


def test_a_model_that_dies_costs_one_model(monkeypatch):
    """The rest of its chunk goes on in another process."""
    monkeypatch.setattr(models, "CPU_SECONDS", 60)
    names = ["timm:test_resnet", "no:such", "transformers:ResNetForImageClassification"]
    records = dict(models._in_process(names))
    assert [records[name]["verdict"] for name in names] == ["right", "not built", "right"]
