"""The fingerprint holds all that the results depend on, so that no run continues another by mistake."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cfcam_gpu.config import CFCAMConfig
from cfcam_gpu.dataset.execution.batch_explainer import BatchExplainer
from cfcam_gpu.dataset.options import RunOptions
from cfcam_gpu.dataset.store.fingerprint import (
    differences,
    fingerprint,
    versions,
    weights_hash,
    with_later_fields,
)
from cfcam_gpu.errors import ConfigError
from cfcam_gpu.evaluation import EvaluationOptions
from cfcam_gpu.methods import METHODS
from tests.helpers.configs import OTHER_VALUES
from tests.helpers.smallnet import PLAIN, make_loaded, photo, run, save


def explainer(**changes: Any) -> BatchExplainer:
    """What the fingerprint reads of an explainer."""
    loaded = SimpleNamespace(spec="resnet50", preprocess=PLAIN, class_names=("ant", "bee"), weights_key="ema")
    cam = SimpleNamespace(layer_name="layer4", finer_layer_name=None)
    fields = {"loaded": loaded, "cam": cam, "target": 1, "activation": "softmax"}
    return cast(BatchExplainer, SimpleNamespace(**{**fields, **changes}))


def with_field(method: str, **values: Any) -> dict[str, Any]:
    """The fingerprint of a run, and that of an evaluation, by a method with some parameters."""
    config = dataclasses.replace(CFCAMConfig(), **values)
    options = EvaluationOptions(methods={"mine": (method, config)})
    return {
        "run": fingerprint(explainer(), "abc", RunOptions(method=method, config=config)),
        "evaluation": options.fingerprint(options.metrics_to_measure(masked=False)),
    }


@pytest.mark.parametrize("method", METHODS)
def test_whatever_a_method_reads_is_in_the_fingerprint(method):
    assert set(OTHER_VALUES) == {field.name for field in dataclasses.fields(CFCAMConfig)}
    default = with_field(method)
    assert default["run"]["method"] == method
    assert default["evaluation"]["methods"]["mine"]["method"] == method
    for name in METHODS[method].reads_config:
        changed = with_field(method, **{name: OTHER_VALUES[name]})
        for kind in ("run", "evaluation"):
            (difference,) = differences(default[kind], changed[kind])
            assert name in difference, kind


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if not method.is_cfcam])
def test_a_parameter_that_the_method_does_not_read_is_refused(method):
    unread = {name: value for name, value in OTHER_VALUES.items() if name not in METHODS[method].reads_config}
    for name, value in unread.items():
        with pytest.raises(ConfigError, match=r"presets and parameters are cfcam's|reads only"):
            RunOptions(method=method, config=CFCAMConfig(**{name: value}))


def test_a_fingerprint_has_the_fields_that_stored_runs_have():
    options = RunOptions(
        precision="bfloat16",
        channels_last=True,
        fold_batchnorm=True,
        compile=True,
        scales=(1.0, 2.0),
        flip=True,
    )
    assert json.loads(json.dumps(fingerprint(explainer(), "abc", options))) == {
        "method": "cfcam",
        "config": {
            "dominant_percentile": 75.0, "eps_percentile": 25.0, "min_samples_fraction": 0.05,
            "filter": "bilateral", "sigma_space": 5.0, "sigma_range": 0.1, "diameter": None, "weighting": "mean",
            "fine_share": 0.4,
        },
        "model": "resnet50",
        "weights_sha256": "abc",
        "weights_key": "ema",
        "layer": "layer4",
        "layout": "auto",
        "finer_layer": None,
        "preprocess": json.loads(json.dumps(dataclasses.asdict(PLAIN))),
        "target": 1,
        "top_k": None,
        "multi_label": None,
        "activation": "softmax",
        "output": None,
        "class_names": "dc0e4991b57dd7ec",
        "precision": "bfloat16",
        "channels_last": True,
        "fold_batchnorm": True,
        "decode": "full",
        "value_range": None,
        "compile": True,
        "scales": [1.0, 2.0],
        "flip": True,
        "eigen_smooth": False,
        "aug_smooth": False,
        "overlays": {"kind": "png", "cmap": "inferno", "alpha": 0.4},
        "versions": versions(),
    }  # fmt: skip


def test_a_run_stored_before_models_were_compiled_was_not_compiled():
    now = fingerprint(explainer(), "abc", RunOptions())
    stored = {name: value for name, value in now.items() if name != "compile"}
    assert differences(with_later_fields(stored, now), now) == []
    compiled = fingerprint(explainer(), "abc", RunOptions(compile=True))
    assert differences(with_later_fields(stored, compiled), compiled) == ["compile was False, now True"]


def test_a_run_stored_before_activations_were_known_had_the_softmax():
    now = fingerprint(explainer(), "abc", RunOptions())
    stored = {name: value for name, value in now.items() if name not in ("activation", "output")}
    assert differences(with_later_fields(stored, now), now) == []
    one_output = fingerprint(explainer(activation="sigmoid"), "abc", RunOptions())
    (difference,) = differences(with_later_fields(stored, one_output), one_output)
    assert difference == "activation was 'softmax', now 'sigmoid'"


def test_methods_of_an_evaluation_have_the_entries_that_stored_evaluations_have():
    """Those that are not CF-CAM never had parameters there, so the defaults of gradcam-fine stay absent."""
    options = EvaluationOptions(methods=("cfcam", "gradcam", "gradcam-fine"))
    entries = options.fingerprint(options.metrics_to_measure(masked=False))["methods"]
    assert entries == {
        "cfcam": {"method": "cfcam", "config": dataclasses.asdict(CFCAMConfig())},
        "gradcam": {"method": "gradcam"},
        "gradcam-fine": {"method": "gradcam-fine"},
    }


def test_run_json_names_versions_weights_and_what_people_want_to_know(tmp_path):
    run(save(tmp_path / "in", a=photo(1)), tmp_path / "out")
    stored = json.loads((tmp_path / "out/run.json").read_text())
    assert set(stored["fingerprint"]["versions"]) == {"cfcam_gpu", "torch", "torchvision"}
    assert stored["fingerprint"]["weights_sha256"] == weights_hash(make_loaded().model)
    assert stored["grid"] == [8, 8]
    assert stored["size"] == [32, 32]
    assert stored["class_names"] == ["ant", "bee", "cat"]
    assert set(stored["info"]) >= {"engine", "device", "precision", "created", "command"}


def test_differences_are_named_by_the_path_of_their_field():
    before = {"a": 1, "b": {"c": [1], "d": 2}, "gone": 0}
    assert differences(before, {"a": 1, "b": {"c": (1,), "d": 3}, "new": "x"}) == [
        "b.d was 2, now 3", "gone was 0, now None", "new was None, now 'x'",
    ]  # fmt: skip
