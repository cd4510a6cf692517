"""The table of engines, what it costs to look at, and which engine runs."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys

import pytest
import torch

from cfcam_gpu import CFCAMConfig
from cfcam_gpu.engines import ENGINES, resolve_engine
from cfcam_gpu.errors import BackendError

CPU = torch.device("cpu")


def fresh(code: str) -> None:
    """Runs code in an interpreter that has imported nothing yet."""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_the_order_of_the_table_stays():
    assert list(ENGINES) == ["numba", "torch", "triton", "cuml", "reference"]


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_is_a_module_with_the_same_two_functions(name):
    module = importlib.import_module(ENGINES[name].module)
    assert module.__name__ == f"cfcam_gpu.engines.{name}_engine"
    assert callable(module.run)
    for device_type in ("cpu", "cuda", "meta"):
        ok, reason = ENGINES[name].available(device_type)
        assert isinstance(ok, bool)
        assert reason


def test_looking_at_the_table_imports_neither_pytorch_nor_an_engine():
    fresh("""
import sys
from cfcam_gpu.engines import ENGINES
assert all(engine.about for engine in ENGINES.values())
assert not {"torch", "numba", "triton", "cv2", "sklearn"} & set(sys.modules)
""")


def test_numba_is_imported_only_when_its_engine_runs():
    """It takes more than a second; another method never needs it."""
    fresh("""
import sys
import torch
from cfcam_gpu import CFCAM
from cfcam_gpu.engines import resolve_engine

model = torch.nn.Sequential(
    torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 2)
).eval()
images = torch.rand(1, 3, 8, 8)
assert CFCAM(model, "1", method="gradcam")(images).engine == "torch"
assert resolve_engine("auto", torch.device("cpu")) == "numba"
cam = CFCAM(model, "1")
assert cam.engine_name == "numba"
assert "numba" not in sys.modules
cam(images)
assert "numba" in sys.modules
""")


def test_without_numba_auto_takes_pytorch(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "numba" else find_spec(name, *rest)
    )
    assert resolve_engine("auto", CPU) == "torch"
    with pytest.raises(
        BackendError, match="engine 'numba' cannot run on cpu: numba is not installed; run: pip"
    ):
        resolve_engine("numba", CPU)


def test_a_numba_that_cannot_be_imported_is_named_with_the_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "cfcam_gpu.engines.numba_scan", None)
    features = torch.rand(1, 4, 3, 3)
    with pytest.raises(
        BackendError, match=r"engine 'numba' cannot run: .*; reinstall numba, or choose engine torch"
    ):
        ENGINES["numba"].run(features, features[:, None], (3, 3), CFCAMConfig())


@pytest.mark.parametrize("name", ["numba", "cuml"])
def test_an_engine_asked_for_by_name_is_never_replaced(name):
    with pytest.raises(BackendError, match=f"engine '{name}' cannot run on meta: "):
        resolve_engine(name, torch.device("meta"))


def test_auto_takes_pytorch_on_any_other_device():
    assert resolve_engine("auto", torch.device("meta")) == "torch"
