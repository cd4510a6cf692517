"""Where the logits are in a model's output, and the classes and probabilities of models with one output."""

from __future__ import annotations

from collections import OrderedDict
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfcam_gpu import CFCAM, CaptureError, ConfigError
from cfcam_gpu.capture import list_layers
from cfcam_gpu.capture.scoring import Scoring
from tests.helpers.capture_net import Net


class Pair(NamedTuple):
    logits: Tensor
    aux_logits: Tensor | None


class Returns(nn.Module):
    """The network of the tests, which puts its logits into another kind of output."""

    def __init__(self, net: Net, make: Any) -> None:
        super().__init__()
        self.net, self.make = net, make

    def forward(self, x: Tensor) -> Any:
        return self.make(self.net(x))


FOUND: dict[str, Any] = {
    "dict": lambda z: {"logits": z},
    "out": lambda z: {"features": 0 * z, "out": z},
    "pred": lambda z: OrderedDict(pred=z, loss=z.sum()),
    "object": lambda z: SimpleNamespace(logits=z, loss=None),
    "named tuple": lambda z: Pair(z, -z),
    "list of one": lambda z: [z],
    "tuple with maps": lambda z: (z[:, :, None, None].expand(-1, -1, 2, 2), z),
    "only value": lambda z: {"scores": z},
}

NAMED: dict[str, tuple[Any, Any]] = {
    "index": (1, lambda z: (0 * z, z)),
    "index as text": ("1", lambda z: (0 * z, z)),
    "last": (-1, lambda z: [0 * z, z]),
    "key": ("finding", lambda z: {"view": 0 * z, "finding": z}),
    "nested": ("heads.1", lambda z: {"heads": (0 * z, z)}),
    "attribute": ("second.logits", lambda z: SimpleNamespace(second=SimpleNamespace(logits=z))),
    "key with a dot": ("a.b", lambda z: {"a.b": z, "c": 0 * z}),
}


@pytest.mark.parametrize("kind", FOUND)
def test_the_usual_outputs(net, images, kind):
    found: Any = CFCAM(Returns(net, FOUND[kind]))(images)
    expected: Any = CFCAM(net)(images)
    assert torch.equal(found.heatmap, expected.heatmap)
    assert torch.equal(found.logits, expected.logits)


@pytest.mark.parametrize("method", ["gradcam-fine", "scorecam", "ablationcam"])
@pytest.mark.parametrize("kind", NAMED)
def test_a_named_output(net, images, kind, method):
    output, make = NAMED[kind]
    found: Any = CFCAM(Returns(net, make), method=method, output=output)(images)
    torch.testing.assert_close(found.heatmap, CFCAM(net, method=method)(images).heatmap)
    assert any(layer.chosen for layer in list_layers(Returns(net, make), images, Scoring(output=output)))


UNCLEAR: dict[str, tuple[Any, Any, str]] = {
    "two tensors": (
        None,
        lambda z: (z, z),
        r"a tuple of 0: a float32 tensor of shape \(1, 4\), 1: .*output=0 in Python, --output for the command",
    ),
    "no tensor": (None, lambda _: [1, 2], r"a list of 0: a int, 1: a int; wrap it in a module"),
    "no such key": ("x", lambda z: {"a": z}, r"nothing under 'x'; it is a dict of a: a float32 tensor"),
    "no such index": (2, lambda z: (z, z), r"nothing under 2; it is a tuple of 0: "),
    "no tensor there": (1, lambda z: (z, "text"), r"output 1 must be a tensor of logits, got a str"),
}


@pytest.mark.parametrize("kind", UNCLEAR)
def test_unclear_outputs_are_errors(net, images, kind):
    output, make, message = UNCLEAR[kind]
    with pytest.raises(CaptureError, match=message):
        CFCAM(Returns(net, make), output=output)(images)


@pytest.fixture
def one(net) -> Net:
    """The network with one output, of which some images are class 0 and some class 1."""
    torch.manual_seed(0)
    net.fc = nn.Linear(8, 1)
    images = torch.randn(3, 3, 12, 10, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        net.fc.bias -= net(images).median()
        net.fc.bias += 0.01
    return net


def gradcam_of(net: Net, images: Tensor, sign: float) -> Tensor:
    """Grad-CAM by hand of the one output, or of its negative: (B,H,W), divided by the maximum."""
    features: Any = net.features(images).detach().requires_grad_()
    net.fc(features.mean((2, 3))).sum().mul(sign).backward()
    grid = (features.grad.mean((2, 3), keepdim=True) * features).sum(1, keepdim=True).relu()
    heatmap = F.interpolate(grid, images.shape[2:], mode="bilinear")[:, 0]
    return (heatmap / heatmap.amax((1, 2), keepdim=True).clamp_min(1e-12)).detach()


@pytest.mark.parametrize("squeezed", [False, True])
def test_one_output_is_the_logit_of_class_1(one, images, squeezed):
    model = Returns(one, lambda z: z[:, 0]) if squeezed else one
    result: Any = CFCAM(model, "net.relu" if squeezed else "relu", method="gradcam")(images)
    z = one(images)[:, 0].detach()
    assert result.targets.tolist() == (z > 0).long().tolist()
    assert set(result.targets.tolist()) == {0, 1}
    assert result.activation == "sigmoid"
    torch.testing.assert_close(result.probabilities, torch.stack([1 - z.sigmoid(), z.sigmoid()], 1))
    positive, negative = gradcam_of(one, images, 1.0), gradcam_of(one, images, -1.0)
    expected = torch.where((z > 0)[:, None, None], positive, negative)
    torch.testing.assert_close(result.heatmap, expected, rtol=0, atol=1e-5)
    both = CFCAM(one, "relu", method="gradcam")(images, [[0, 1]] * 3).heatmap
    torch.testing.assert_close(both, torch.stack([negative, positive], 1), rtol=0, atol=1e-5)


def test_one_image_of_a_model_that_squeezes_its_one_output(one, images):
    model = Returns(one, torch.squeeze)
    for index in range(3):
        found: Any = CFCAM(model, "net.relu", method="gradcam")(images[index : index + 1])
        expected: Any = CFCAM(one, "relu", method="gradcam")(images[index : index + 1])
        torch.testing.assert_close(found.heatmap, expected.heatmap)
        torch.testing.assert_close(found.probabilities, expected.probabilities)


@pytest.mark.parametrize("method", ["scorecam", "ablationcam", "layercam", "cfcam"])
def test_methods_explain_both_classes_of_one_output(one, images, method):
    """As for the same model with the two outputs -z and z."""
    two = Returns(one, lambda z: torch.cat([-z, z], 1))
    found: Any = CFCAM(one, "relu", method=method)(images, [[0, 1]] * 3)
    expected: Any = CFCAM(two, "net.relu", method=method)(images, [[0, 1]] * 3)
    torch.testing.assert_close(found.heatmap, expected.heatmap)


def test_functions_get_the_output_as_it_is(one, images):
    found: Any = CFCAM(one, "relu", method="gradcam")(images, lambda z: -z[0])
    torch.testing.assert_close(found.heatmap, gradcam_of(one, images, -1.0), rtol=0, atol=1e-5)
    assert found.logits.shape == (3, 1)


def test_the_softmax_of_one_output_is_refused(one, images):
    with pytest.raises(CaptureError, match=r"softmax of a model with one output is 1 for every image"):
        CFCAM(one, "relu", activation="softmax")(images)


def test_several_outputs_with_a_sigmoid(net, images):
    result: Any = CFCAM(net, "relu", activation="sigmoid")(images)
    torch.testing.assert_close(result.probabilities, net(images).sigmoid())
    softmax: Any = CFCAM(net, "relu")(images)
    torch.testing.assert_close(softmax.probabilities, net(images).softmax(1))
    assert torch.equal(result.heatmap, softmax.heatmap)


def test_an_unknown_activation_is_an_error(net):
    with pytest.raises(ConfigError, match=r"unknown activation 'sigmod' \(did you mean sigmoid\?\)"):
        CFCAM(net, activation="sigmod")


def test_a_model_of_transformers_says_that_it_is_multi_label(net, images):
    net.config = SimpleNamespace(problem_type="multi_label_classification")
    assert CFCAM(net, "relu")(images).activation == "sigmoid"
    assert CFCAM(net, "relu", activation="softmax")(images).activation == "softmax"
    around = Returns(net, lambda z: z)
    assert CFCAM(around, "net.relu")(images).activation == "sigmoid"
