"""What a method needs and reads, and the errors where it does not get it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from cfcam_gpu import CFCAM, BackendError, CFCAMConfig, ConfigError, explain_activations
from cfcam_gpu.dataset.options import RunOptions
from cfcam_gpu.methods import METHODS
from tests.helpers.configs import OTHER_VALUES
from tests.helpers.method_cases import Deeper, explain


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        (
            {"method": "gradcan"},
            ConfigError,
            r"unknown method 'gradcan' \(did you mean gradcam\?\); choose .*random",
        ),
        (
            {"method": "gradcam", "engine": "numba"},
            ConfigError,
            "'numba' is one of cfcam's; gradcam runs in PyTorch",
        ),
        ({"method": "gradcam", "finer_layer": "stem"}, ConfigError, "'gradcam' looks at one layer"),
        ({"method": "gradcam", "engine": "fast"}, BackendError, "unknown engine 'fast'"),
    ],
)
def test_what_cannot_be_is_said_at_once(net, kwargs, error, message):
    with pytest.raises(error, match=message):
        CFCAM(net, "conv:relu", **kwargs)


def test_errors_of_features(net, images):
    a = torch.rand(1, 3, 4, 4)
    with pytest.raises(ConfigError, match=r"'scorecam' runs the model again; use CFCAM"):
        explain_activations(a, a, (8, 8), method="scorecam")
    with pytest.raises(ConfigError, match=r"gradients must be .* got a NoneType"):
        explain_activations(a, None, (8, 8), method="gradcam")
    with CFCAM(net, "conv:relu", method="gradcam") as cam:
        features = cam.features(images)
        with pytest.raises(ConfigError, match=r"gradients must be \(B,K,C,h,w\), here \(4, 1, 24, 8, 8\)"):
            cam.explain(dataclasses.replace(features, gradients=features.gradients[:, 0]))
        with pytest.raises(ConfigError, match="'gradcam' needs gradients"):
            cam.explain(dataclasses.replace(features, gradients=features.gradients[:, :0]))


def test_the_configuration_is_the_explaining_ones(net, images):
    config = CFCAMConfig.preset("upstream")
    with CFCAM(net, "conv:relu") as cam, CFCAM(net, "conv:relu", config) as other:
        assert torch.equal(other.explain(cam.features(images)).heatmap, other(images).heatmap)
        assert not torch.equal(other(images).heatmap, cam(images).heatmap)


def test_no_gradient_is_asked_for_where_none_is_used(images):
    """A layer that no class score depends on has no gradient, but a principal component."""

    class Aside(Deeper):
        def forward(self, given: Tensor) -> Tensor:
            self.conv(given).relu()
            return given.flatten(1)[:, :3]

    model = Aside().eval()
    assert explain(model, "eigencam", images).heatmap.amax() == 1
    with pytest.raises(Exception, match="does not depend on layer"):
        explain(model, "gradcam", images)


def test_parameters_that_a_method_does_not_read_are_refused():
    with pytest.raises(ConfigError, match="presets and parameters are cfcam's, gradcam has none"):
        RunOptions(method="gradcam", config=CFCAMConfig.preset("upstream"))
    with pytest.raises(
        ConfigError, match="'gradcam-fine' reads only fine_share, got eps_percentile, sigma_space; leave"
    ):
        RunOptions(method="gradcam-fine", config=CFCAMConfig(eps_percentile=5, sigma_space=1, fine_share=0.9))
    for method in ("gradcam-fine", "cfcam-fine", "cfcam"):
        assert RunOptions(method=method, config=CFCAMConfig(fine_share=0.9)).config.fine_share == 0.9


@pytest.mark.parametrize("method", METHODS)
def test_a_method_reads_the_fields_that_its_entry_names_and_no_other(net, images, method):
    """Fields that the entry leaves out change nothing, and those it names change the map."""
    table, default = METHODS[method], CFCAMConfig()
    assert set(OTHER_VALUES) == {field.name for field in dataclasses.fields(CFCAMConfig)}
    with CFCAM(net, "conv:relu", method=method) as cam:
        features = cam.features(images, 1)
        expected = cam.explain(features).grid

    def grid(config: CFCAMConfig) -> Tensor:
        return CFCAM(net, "conv:relu", config, method=method).explain(features).grid

    unread = {name: value for name, value in OTHER_VALUES.items() if name not in table.reads_config}
    assert torch.equal(grid(CFCAMConfig(**unread)), expected)
    assert table.config_read(default) == {name: getattr(default, name) for name in table.reads_config}
    for name in table.reads_config:
        assert not torch.equal(grid(CFCAMConfig(**{name: OTHER_VALUES[name]})), expected), name
