"""`cfcam_gpu.dataset` has what a user of datasets wants, and importing it is cheap."""

from __future__ import annotations

import subprocess
import sys

import cfcam_gpu.dataset


def test_every_public_name_can_be_imported():
    assert set(cfcam_gpu.dataset.__all__) <= set(dir(cfcam_gpu.dataset))
    for name in cfcam_gpu.dataset.__all__:
        assert getattr(cfcam_gpu.dataset, name).__name__ == name


def test_samples_and_results_need_no_pytorch():
    code = """
import sys
import cfcam_gpu.dataset
assert not {"torch", "numpy", "pyarrow", "PIL"} & set(sys.modules)
from cfcam_gpu.dataset import Results, Sample, find_samples, open_image, open_results, Observer, export
assert "torch" not in sys.modules
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
