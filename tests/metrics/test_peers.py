"""Drop, deletion, insertion and ROAD, against torch-cam, pytorch-grad-cam and Quantus."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from cfcam_gpu.metrics import MetricOptions, road
from cfcam_gpu.metrics.adcc import adcc
from cfcam_gpu.metrics.arcc import arcc
from cfcam_gpu.metrics.deletion import deletion
from cfcam_gpu.metrics.drop import drop
from cfcam_gpu.metrics.insertion import insertion
from tests.helpers.metric_cases import SENSITIVE, brightness_case, random_map, sensitive_case
from tests.helpers.tolerances import PROBABILITY

OPTIONS = MetricOptions()


def test_torch_cam_agrees():
    """Its Average Drop, Increase in Confidence, deletion and insertion on its own Grad-CAM maps."""
    methods = pytest.importorskip("torchcam.methods", reason="needs torch-cam (extra peers)")
    metrics = pytest.importorskip("torchcam.metrics")
    if not hasattr(metrics, "DeletionInsertionMetric"):
        pytest.skip("this torch-cam has no deletion metric; 0.5 does")
    net, case = SENSITIVE, sensitive_case(n=4, size=10)
    with methods.GradCAM(net, "features") as extractor:
        softmax = torch.nn.Softmax(-1)
        (cams,) = extractor(case.targets.tolist(), softmax(net(case.images)))
        classification = metrics.ClassificationMetric(extractor, softmax)
        curves = metrics.DeletionInsertionMetric(extractor, softmax, steps=100)
        classification.update(case.images, case.targets.tolist())
        curves.update(case.images, case.targets.tolist())
    maps = torch.nn.functional.interpolate(cams.detach()[:, None], (10, 10), mode="bilinear")[:, 0]
    case = replace(case, heatmaps=maps)
    ours = drop(case, OPTIONS) | deletion(case, OPTIONS) | insertion(case, OPTIONS)
    theirs = classification.summary() | curves.summary()
    for name, column in {
        "avg_drop": "average_drop",
        "conf_increase": "increase",
        "deletion_auc": "deletion_black_auc",
        "insertion_auc": "insertion_black_auc",
    }.items():
        assert ours[column].mean().item() == pytest.approx(theirs[name], abs=PROBABILITY), name


@pytest.fixture
def peer_road(monkeypatch: pytest.MonkeyPatch) -> Any:
    """pytorch-grad-cam's ROAD without noise on filled pixels, and this package's likewise."""
    peer = pytest.importorskip("pytorch_grad_cam.metrics.road", reason="needs grad-cam (extra peers)")

    class Noiseless(peer.NoisyLinearImputer):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__(noise=0.0)

    monkeypatch.setattr(peer, "NoisyLinearImputer", Noiseless)
    monkeypatch.setattr(road, "NOISE", 0.0)
    return peer


def test_pytorch_grad_cam_agrees(peer_road: Any):
    """Its drop (not divided by the clean score), increase and ROAD without noise."""
    peer = pytest.importorskip(
        "pytorch_grad_cam.metrics.cam_mult_image", reason="needs grad-cam (extra peers)"
    )
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    # 18×18 pixels: its percentile thresholds then remove as many pixels as the shares here. No two values equal.
    case = sensitive_case(n=3, size=18, heatmaps=random_map(torch.empty(3, 18, 18)))
    targets = [ClassifierOutputSoftmaxTarget(target) for target in case.targets]
    together = (case.images, case.heatmaps.numpy(), targets, SENSITIVE)
    one_by_one = (case.images, case.heatmaps.numpy()[:, None], targets, SENSITIVE)
    drops, roads = drop(case, OPTIONS), road.road(case, OPTIONS)
    np.testing.assert_allclose(
        (drops["average_drop"] * case.clean).numpy(), peer.DropInConfidence()(*one_by_one), atol=PROBABILITY
    )
    np.testing.assert_array_equal(drops["increase"].numpy(), peer.IncreaseInConfidence()(*one_by_one))
    expected = peer_road.ROADCombined(percentiles=[20, 40, 60, 80])(*together)
    np.testing.assert_allclose(roads["road_combined"].numpy(), expected, atol=1e-4)
    most = (
        peer_road.ROADMostRelevantFirstAverage(percentiles=[20, 40, 60, 80])(*together) + case.clean.numpy()
    )
    np.testing.assert_allclose(roads["road_most_curve"].mean(1).numpy(), most, atol=1e-4)


@pytest.mark.usefixtures("peer_road")
def test_pytorch_grad_cam_agrees_on_arcc():
    """The authors' own ARCC, with maps that are the brightness, and ROAD without noise."""
    peer = pytest.importorskip("pytorch_grad_cam.metrics.arcc", reason="needs grad-cam (extra peers)")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    case, net = brightness_case(n=4, size=18)

    def maps(input_tensor: torch.Tensor, **_: object) -> np.ndarray:
        return input_tensor.mean(1).numpy()

    targets = [ClassifierOutputSoftmaxTarget(target) for target in case.targets]
    theirs = peer.ARCC(maps)(case.images, case.heatmaps.numpy(), targets, net)
    coherency = peer.Coherency()(case.images, case.heatmaps.numpy(), targets, net, maps)
    found = arcc(case, OPTIONS)["arcc"].numpy()
    assert (found > 0.1).all()
    np.testing.assert_allclose(found, theirs, atol=1e-4)
    np.testing.assert_allclose(adcc(case, OPTIONS)["coherency"].numpy(), coherency, atol=1e-4)


def test_quantus_agrees():
    """Its pixel flipping with a black baseline is the deletion curve without the clean image."""
    quantus = pytest.importorskip("quantus", reason="needs quantus, which is no extra of this package")
    case = sensitive_case(n=3, size=12, heatmaps=random_map(torch.empty(3, 12, 12)))
    flipping = quantus.PixelFlipping(
        features_in_step=3 * 16, perturb_baseline="black", normalise=False, disable_warnings=True
    )
    curves = flipping(
        model=SENSITIVE,
        x_batch=case.images.numpy(),
        y_batch=case.targets.numpy(),
        a_batch=case.heatmaps[:, None].numpy(),
        softmax=True,
        device="cpu",
    )
    np.testing.assert_allclose(
        deletion(case, MetricOptions(steps=10))["deletion_black_curve"][:, 1:].numpy(),
        curves,
        atol=PROBABILITY,
    )
