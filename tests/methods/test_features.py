"""Features that a model was captured with: targets of both kinds, the finer layer, random draws."""

from __future__ import annotations

import pytest
import torch

from cfcam_gpu import CFCAM, ConfigError, TargetError, explain_activations
from cfcam_gpu.capture import find_layer
from cfcam_gpu.methods import METHODS
from cfcam_gpu.methods.features import Features


def test_scores_of_class_targets_and_of_functions(net, images):
    logits, rows = torch.tensor([[1.0, 5.0, 2.0], [7.0, 0.0, 3.0], [4.0, 4.0, 9.0]]), torch.tensor([2, 0, 2])
    cam = CFCAM(net, "conv:relu", method="gradcam")
    classes = cam.features(images, torch.tensor([[0, 1], [1, 1], [2, 0], [0, 0]]))
    assert classes.classes.tolist() == [[0, 1], [1, 1], [2, 0], [0, 0]]
    assert classes.scores_of(logits, rows).tolist() == [[2.0, 1.0], [7.0, 0.0], [9.0, 4.0]]
    assert (classes.k, classes.single) == (2, False)
    factors = (10, 20, 30, 40)
    functions = cam.features(images, [lambda logits, n=n: logits[0] * n for n in factors])
    assert functions.scores_of(logits, rows).tolist() == [[30.0], [70.0], [120.0]]
    assert (functions.k, functions.single) == (1, True)
    with pytest.raises(TargetError, match="must be classes here, got functions; pass class indices"):
        functions.classes.tolist()


def test_gradients_at_other_images_are_those_of_a_capture(net, images):
    cam = CFCAM(net, "conv:relu", method="gradcam")
    for targets in ([0, 1, 2, 0], [lambda logits, k=k: logits[k] for k in (0, 1, 2, 0)]):
        features = cam.features(images, targets)
        expected = cam.features(images + 1, targets).gradients
        torch.testing.assert_close(features.gradients_of(images + 1), expected)


def test_the_finer_layer_is_captured_at_once_or_later(net, images):
    together = CFCAM(net, "conv:relu", method="cfcam-fine").features(images, 1)
    plain = CFCAM(net, "conv:relu").features(images, 1)
    with pytest.raises(ConfigError, match=r"was not captured; use CFCAM\.explain"):
        plain.at_finer_layer()
    added = plain.captured_again(find_layer(net, "stem"), contrast=False)
    finer, later = together.at_finer_layer(), added.at_finer_layer()
    assert not added.contrasted
    assert finer.activations.shape == (4, 3, 32, 32)
    torch.testing.assert_close(finer.activations, later.activations)
    torch.testing.assert_close(finer.gradients, later.gradients)


def test_masked_images_are_zeros_and_the_others_untouched(net, images):
    images = images.clone()
    images[2, 0, 4, 4] = torch.inf
    features = CFCAM(net, "conv:relu").features(images, 1)
    bad, _ = features.not_finite()
    assert bad.tolist() == [False, False, True, False]
    masked = features.without(bad)
    for field in ("activations", "gradients"):
        value, before = getattr(masked, field), getattr(features, field)
        assert not value[2].any()
        assert torch.equal(value[[0, 1, 3]], before[[0, 1, 3]])
        assert value.is_contiguous()


def test_images_that_are_all_right_are_not_copied():
    a, g = torch.rand(3, 2, 4, 4), torch.rand(3, 1, 2, 4, 4)
    features = Features(activations=a, gradients=g, size=(8, 8))
    kept = features.without(torch.zeros(3, dtype=torch.bool))
    assert kept.activations is features.activations
    assert kept.gradients is features.gradients
    assert features.without(torch.tensor([False, True, False])).activations is not features.activations


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if not method.needs_model])
def test_no_method_writes_into_the_features(method):
    torch.manual_seed(0)
    a, g = torch.rand(2, 24, 5, 5), torch.randn(2, 2, 24, 5, 5)
    before = a.clone(), g.clone()
    explain_activations(a, g, (8, 8), method=method)
    assert torch.equal(a, before[0])
    assert torch.equal(g, before[1])


def test_a_generator_depends_on_its_image_alone():
    a, g = torch.rand(3, 2, 4, 4), torch.rand(3, 1, 2, 4, 4)

    def draws(order: list[int]) -> list[float]:
        features = Features(activations=a[order], gradients=g[order], size=(8, 8))
        return [float(torch.rand(1, generator=generator)) for generator in features.generators()]

    first = draws([0, 1, 2])
    assert draws([2, 0]) == [first[2], first[0]]
    assert len(set(first)) == 3
