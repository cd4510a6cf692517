"""`eigen_smooth`: weights that make each method's own map, their principal component, and how it is asked for."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import nn

from cfcam_gpu import CFCAM, CFCAMConfig, ConfigError, explain_activations
from cfcam_gpu.dataset.options import RunOptions
from cfcam_gpu.errors import StoreError
from cfcam_gpu.evaluation import EvaluationOptions
from cfcam_gpu.methods import METHODS
from cfcam_gpu.methods.smoothing import eigen_smoothed
from tests.helpers.method_cases import CLOSE, Deeper
from tests.helpers.smallnet import photo, rows, run, save

WEIGHTED = [name for name, method in METHODS.items() if method.weights]
IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 3 - 1
TARGETS = torch.tensor([[0, 1], [2, 0], [1, 2]])


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return Deeper().eval()


@pytest.mark.parametrize(
    "config", [CFCAMConfig(), CFCAMConfig.preset("spatial"), CFCAMConfig.preset("upstream")]
)
@pytest.mark.parametrize("name", WEIGHTED)
def test_the_weights_make_the_methods_map(net, name, config):
    config = config if METHODS[name].is_cfcam else CFCAMConfig()
    cam = CFCAM(net, "conv:relu", config, "torch", method=name)
    features = cam.features(IMAGES, TARGETS)
    module, _, function = METHODS[name].weights.partition(":")
    weights = getattr(importlib.import_module(f"cfcam_gpu.methods.{module}"), function)(features)
    weights = weights[..., None, None] if weights.ndim == 3 else weights
    expected = (weights * features.activations[:, None]).sum(2).relu()
    grid = cam.explain(features).grid
    assert grid.amax() > 0
    torch.testing.assert_close(grid, expected, **CLOSE)


@pytest.mark.parametrize("shape", [(2, 3, 5, 4, 6), (1, 2, 40, 3, 3)])
def test_the_component_is_that_of_a_singular_value_decomposition(shape):
    generator = torch.Generator().manual_seed(1)
    b, k, c, h, w = shape
    activations, weights = (
        torch.rand(b, c, h, w, generator=generator),
        torch.randn(shape, generator=generator),
    )
    found = eigen_smoothed(activations, weights)
    for image in range(b):
        for target in range(k):
            weighted = (weights[image, target] * activations[image]).flatten(1).double()
            cells = (weighted - weighted.mean(1, keepdim=True)).T
            component = cells @ torch.linalg.svd(cells)[2][0]
            whole = weighted.sum(0)
            if torch.dot(component, whole - whole.mean()) < 0:
                component = -component
            torch.testing.assert_close(
                found[image, target], component.relu().view(h, w).float(), atol=1e-5, rtol=1e-4
            )


@pytest.mark.parametrize("name", ["cfcam", "gradcam", "scorecam"])
def test_an_explainer_smooths(net, name):
    plain, smooth = (
        CFCAM(net, "conv:relu", method=name, engine="torch", eigen_smooth=on)(IMAGES, TARGETS)
        for on in (False, True)
    )
    assert smooth.grid.shape == plain.grid.shape
    assert smooth.labels is None
    assert not torch.allclose(smooth.heatmap, plain.heatmap, atol=1e-2)


@pytest.mark.parametrize("name", [name for name in WEIGHTED if not METHODS[name].needs_model])
def test_activations_captured_elsewhere_are_smoothed_as_an_explainer_smooths(net, name):
    cam = CFCAM(net, "conv:relu", method=name, engine="torch", eigen_smooth=True)
    features = cam.features(IMAGES, TARGETS)
    found = explain_activations(
        features.activations,
        features.gradients,
        features.size,
        method=name,
        engine="torch",
        eigen_smooth=True,
    )
    expected = cam.explain(features)
    assert expected.grid.amax() > 0
    torch.testing.assert_close(found.grid, expected.grid)
    torch.testing.assert_close(found.heatmap, expected.heatmap)


def test_other_methods_and_engines_are_refused(net):
    message = "eigen_smooth is for methods whose map is a weighted sum of channels .*got 'refinecam'"
    with pytest.raises(ConfigError, match=message):
        CFCAM(net, method="refinecam", eigen_smooth=True)
    with pytest.raises(ConfigError, match=message):
        RunOptions(method="refinecam", eigen_smooth=True)
    ones = torch.ones(1, 2, 3, 3)
    with pytest.raises(ConfigError, match=r"eigen_smooth is for methods .*got 'eigencam'"):
        explain_activations(ones, None, (3, 3), method="eigencam", eigen_smooth=True)
    with pytest.raises(ConfigError, match="gradcam with eigen_smooth runs in PyTorch"):
        explain_activations(ones, ones, (3, 3), method="gradcam", engine="numba", eigen_smooth=True)
    with pytest.raises(ConfigError, match="cfcam with eigen_smooth runs in PyTorch"):
        CFCAM(net, engine="numba", eigen_smooth=True)
    with pytest.raises(ConfigError, match="an evaluation takes no eigen_smooth"):
        EvaluationOptions(eigen_smooth=True)


@pytest.mark.parametrize("name", ["eigen_smooth", "aug_smooth"])
def test_a_run_smooths_and_is_resumed_only_so(tmp_path, name):
    folder = save(tmp_path / "in", a=photo(1), b=photo(2))
    run(folder, tmp_path / "plain", method="gradcam")
    run(folder, tmp_path / "out", method="gradcam", **{name: True})
    assert [row["status"] for row in rows(tmp_path / "out")] == ["ok", "ok"]
    grids = [rows(tmp_path / out)[0]["grid"] for out in ("plain", "out")]
    assert abs(grids[0] / grids[0].max() - grids[1] / grids[1].max()).max() > 1e-3
    with pytest.raises(StoreError, match=f"{name} was True, now False"):
        run(folder, tmp_path / "out", method="gradcam")
