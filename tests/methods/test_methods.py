"""The table of the methods, and their names."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

from cfcam_gpu import CFCAMConfig, ConfigError
from cfcam_gpu.dataset.options import RunOptions
from cfcam_gpu.evaluation import EvaluationOptions
from cfcam_gpu.methods import METHODS, find_method, parse_method
from cfcam_gpu.methods.features import CapturedFeatures
from tests.helpers.method_cases import ALONE

TABLE_ALONE = """
import sys
from cfcam_gpu.methods import METHODS, find_method, parse_method
assert parse_method("cfcam:upstream")[0] == "cfcam" and find_method("random") and len(METHODS) == 20
assert not {"torch", "numpy", "numba"} & set(sys.modules)
"""

WITHOUT_ENGINES = """
import sys, torch
from cfcam_gpu import CFCAM
from cfcam_gpu.methods import METHODS
from tests.helpers.method_cases import Deeper
for name, method in METHODS.items():
    if not method.has_engines:
        with CFCAM(Deeper().eval(), "conv:relu", method=name) as cam:
            assert cam.engine_name == cam(torch.rand(1, 3, 32, 32)).engine == "torch"
assert "numba" not in sys.modules
assert not [name for name in sys.modules if name.startswith("cfcam_gpu.engines.")]
"""


@pytest.mark.parametrize("code", [TABLE_ALONE, WITHOUT_ENGINES], ids=["table", "methods"])
def test_only_what_is_used_is_imported(code):
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("name", METHODS)
def test_every_entry_names_a_function_which_takes_what_the_entry_says(name):
    method = METHODS[name]
    assert method.name == name
    module, _, function = method.function.partition(":")
    found = getattr(importlib.import_module(f"cfcam_gpu.methods.{module}"), function)
    (features,) = inspect.signature(found, eval_str=True).parameters.values()
    assert (features.annotation is CapturedFeatures) == (name not in ALONE)
    assert method.has_engines <= method.is_cfcam <= bool(method.reads_config)
    assert ("fine_share" in method.reads_config) <= method.needs_finer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gradcam", ("gradcam", CFCAMConfig())),
        ("cfcam", ("cfcam", CFCAMConfig())),
        ("cfcam:upstream", ("cfcam", CFCAMConfig.preset("upstream"))),
    ],
)
def test_parse_method(text, expected):
    assert parse_method(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gradcam:upstream", "only cfcam has presets .*default.* got method 'gradcam:upstream'"),
        ("cfcam:none", "unknown preset 'none'; choose one of: default"),
        ("cfcam:", "unknown preset ''"),
        ("", "unknown method ''; choose one of: cfcam, cfcam-fine, gradcam"),
    ],
)
def test_parse_method_refuses(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_method(text)


SPELLINGS = {
    "gradcampp": "gradcam++",
    "GradCAM": "gradcam",
    "Grad-CAM": "gradcam",
    "Grad-CAM++": "gradcam++",
    "grad_cam_pp": "gradcam++",
    "GradCAMPlusPlus": "gradcam++",
    "SmoothGradCAMpp": "smoothgradcam++",
    "Score CAM": "scorecam",
    "XGradCAM": "xgradcam",
    "CF-CAM": "cfcam",
    "CFCAMSharp": "cfcam-sharp",
    "cfcam_fine": "cfcam-fine",
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_other_spellings(name):
    assert find_method(name) is METHODS[SPELLINGS[name]]
    assert RunOptions(method=name).method == SPELLINGS[name]


def test_no_two_methods_have_the_same_spelling():
    for name, method in METHODS.items():
        assert find_method(name) is find_method(name.upper().replace("-", "_")) is method


def test_spellings_in_an_evaluation_are_its_labels():
    options = EvaluationOptions(methods=["GradCAM", "CF-CAM:upstream", "Grad-CAM++"])
    assert list(options.methods_by_label()) == ["gradcam", "cfcam:upstream", "gradcam++"]
    assert RunOptions(method="CFCAM").config == CFCAMConfig()


@pytest.mark.parametrize("name", ["gradcan", "", "cam", None, "pp"])
def test_what_is_no_spelling_is_refused(name):
    with pytest.raises(ConfigError, match=r"unknown method .*choose one of: cfcam, "):
        find_method(name)
