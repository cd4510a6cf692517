"""`cfcam doctor` names what works, and why the rest does not."""

from __future__ import annotations

import importlib.util
import json
import re
from typing import Any

import torch

import cfcam_gpu
from cfcam_gpu._utils import nvidia
from cfcam_gpu.cli import doctor_checks
from tests.helpers.command import FAILED, OK, cfcam


def test_doctor_names_everything_with_a_reason():
    outcome = cfcam("doctor")
    assert outcome.status == OK
    for name in ("python", "torch", "opencv", "cpu", "cuda", "reference", "timm", "cupy", "end to end"):
        assert re.search(rf"(^|\s){name}(:0)?\s+(ok|no)\s+\S", outcome.out), name
    findings = json.loads(cfcam("doctor", "--json").out)
    assert list(findings) == ["versions", "devices", "engines", "optional packages", "check"]
    assert all(finding["detail"] for section in findings.values() for finding in section)
    versions = {finding["name"]: finding["detail"] for finding in findings["versions"]}
    assert versions["torch"] == torch.__version__
    assert versions["cfcam_gpu"] == cfcam_gpu.__version__


def test_doctor_tells_why_a_package_is_not_usable(monkeypatch):
    monkeypatch.setitem(doctor_checks.OPTIONAL, "no_such_package", ("timm", False))
    monkeypatch.setitem(doctor_checks.OPTIONAL, "broken_package", ("timm", False))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    find_spec, import_module = importlib.util.find_spec, importlib.import_module

    def broken(name: str) -> Any:
        if name == "broken_package":
            raise OSError("libfoo.so: cannot open\nsecond line")
        return import_module(name)

    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: find_spec("json" if name in ("broken_package", "cupy") else name),
    )
    monkeypatch.setattr(importlib, "import_module", broken)
    found = {finding.name: finding for finding in doctor_checks.examine()["optional packages"]}
    assert not any(found[name].usable for name in ("no_such_package", "broken_package", "cupy"))
    assert found["no_such_package"].detail == "not installed; pip install 'cfcam-gpu[timm]'"
    assert found["broken_package"].detail == "import fails: libfoo.so: cannot open"
    assert found["cupy"].detail == "installed, but there is no CUDA device"


def test_doctor_fails_when_the_engines_disagree(monkeypatch):
    monkeypatch.setattr(doctor_checks, "TOLERANCE", -1.0)
    outcome = cfcam("doctor")
    assert outcome.status == FAILED
    assert re.search(r"end to end\s+no", outcome.out)


def test_doctor_names_the_mismatch_of_driver_and_pytorch(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(nvidia, "driver_version", lambda: (12, 4))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = {finding.name: finding for finding in doctor_checks.examine()["devices"]}
    assert not found["cuda"].usable
    assert found["cuda"].detail.startswith("the NVIDIA driver supports CUDA up to 12.4, but PyTorch ")
    assert found["cuda"].detail.endswith(
        "is built for CUDA 13.0; update the driver, or install a build of PyTorch for CUDA 12"
    )
