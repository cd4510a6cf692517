"""The extras for NVIDIA GPUs resolve to packages that can run together: all of one CUDA version."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: What a resolver without a network says.
NO_NETWORK = ("error sending request", "dns error", "Could not connect", "timed out")


def resolved(extra: str, python: str) -> dict[str, str]:
    """Distribution -> version that the project's extra resolves to on Linux."""
    run = subprocess.run(
        [
            sys.executable, "-m", "uv", "pip", "compile", "-q", "--no-annotate", "--no-header", "--extra", extra,
            "--python-version", python, "--python-platform", "x86_64-manylinux_2_28", "pyproject.toml",
        ],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if run.returncode and any(sign in run.stderr for sign in NO_NETWORK):
        pytest.skip("the package index cannot be reached")
    assert run.returncode == 0, run.stderr
    lines = [line.split(";")[0].strip() for line in run.stdout.splitlines()]
    return dict(line.split("==") for line in lines if "==" in line)


@pytest.mark.slow
@pytest.mark.parametrize("python", ["3.11", "3.13"])
@pytest.mark.parametrize("cuda", [12, 13])
def test_an_extra_resolves_to_one_cuda_version(cuda, python):
    versions = resolved(f"cuda{cuda}", python)
    assert f"cuml-cu{cuda}" in versions
    assert f"cupy-cuda{cuda}x" in versions
    other = {12: 13, 13: 12}[cuda]
    assert not [name for name in versions if re.search(rf"-cu(da)?{other}x?$", name)]
    # PyTorch's builds on the package index are for CUDA 12 up to 2.10, for CUDA 13 since 2.11.
    release = tuple(int(part) for part in versions["torch"].split(".")[:2])
    assert (release >= (2, 11)) == (cuda == 13)
    # These files are PyTorch's own CUDA libraries: they must be of the same version.
    cublas = [name for name in versions if name.startswith("nvidia-cublas")]
    majors = {versions[name].split(".")[0] for name in cublas}
    assert majors == {str(cuda)}
