"""Some hundred damaged inputs of every kind, the same in every run; `make fuzz` tries others for ten minutes."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("pydicom", reason="the extra dicom is not installed")


@pytest.mark.parametrize("kind", ["images", "sources"])
def test_damaged_inputs_fail_with_a_reason(kind: str) -> None:
    """In another process, which damaged Arrow files could end."""
    code = f"from tests.helpers import fuzz; print(fuzz.faults(fuzz.{kind}, seed=0, rounds=600))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "[]\n"), run.stdout + run.stderr
