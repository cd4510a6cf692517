"""Settings of an evaluation: refusals, and what makes two evaluations the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cfcam_gpu.config import CFCAMConfig
from cfcam_gpu.errors import ConfigError, InputError
from tests.helpers.small_evaluation import evaluate_small


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"metrics": ["deletoin"]},
            ConfigError,
            r"unknown metric 'deletoin' \(did you mean deletion\?\); choose",
        ),
        (
            {"methods": ["gradcma"]},
            ConfigError,
            r"unknown method 'gradcma' \(did you mean gradcam\?\); choose",
        ),
        ({"methods": ["gradcam:upstream"]}, ConfigError, "only cfcam has presets"),
        ({"methods": ["gradcam", "gradcam"]}, ConfigError, "method 'gradcam' is named twice"),
        ({"methods": []}, ConfigError, "no method is given"),
        ({"metrics": "drop"}, ConfigError, "metrics must be a list of names, got the text 'drop'"),
        (
            {"metrics": ["drop", "localisation"]},
            ConfigError,
            "metric 'localisation' needs masks .* no image has",
        ),
        ({"masks": "nowhere"}, InputError, "the folder of masks 'nowhere' does not exist"),
        ({"masks": "."}, InputError, "has none for any of the inputs; the mask of 'p0.png' would be p0.png"),
        (
            {"methods": {"mine": ("gradcam-fine", CFCAMConfig(filter="none"))}},
            ConfigError,
            "'gradcam-fine' reads only fine_share, got filter",
        ),
        ({"level": 1.0}, ConfigError, "a level between 0 and 1"),
        ({"overlays": "png"}, ConfigError, "an evaluation takes no overlays"),
        ({"method": "gradcam"}, ConfigError, "an evaluation takes no method; give methods"),
        ({"config": CFCAMConfig(filter="none")}, ConfigError, "an evaluation takes no config; give methods"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_runs(
    pictures, monkeypatch, settings, error, message
):
    def loads() -> None:
        pytest.fail("nothing may run before the settings are known to be good")

    monkeypatch.chdir(pictures.parent)
    with pytest.raises(error, match=message):
        evaluate_small("in", Path("out"), model=loads, **settings)
    assert not Path("out").exists()


def test_a_baseline_must_be_among_the_methods(pictures, tmp_path):
    with pytest.raises(ConfigError, match="the baseline 'gradcma' is none of the methods: cfcam, gradcam"):
        evaluate_small(pictures, tmp_path / "out", baseline="gradcma")


def test_the_settings_are_known_without_pytorch():
    """The command's help lists methods, metrics and defaults."""
    code = (
        "import sys; from cfcam_gpu.evaluation import EvaluationOptions\n"
        "options = EvaluationOptions(methods=['all'], metrics=['all'])\n"
        "assert len(options.methods_by_label()) > 10 and len(options.metrics_to_measure(masked=True)) > 10\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
