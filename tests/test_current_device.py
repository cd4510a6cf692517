"""Everything is launched on the images' device, also where it is not the first one.

Tensors on `cuda:1` are faked: they have a device and a shape, and no values. Kernels are not launched; the current
device at each launch is recorded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.device_ops import stubbed_kernels
from cfcam_gpu import CFCAM, explain_activations
from cfcam_gpu._utils.device import on_device
from cfcam_gpu.dataset.execution import local
from cfcam_gpu.dataset.options import RunOptions
from cfcam_gpu.engines import cuml_engine
from tests.helpers.smallnet import make_loaded

SECOND = torch.device("cuda", 1)


@pytest.fixture
def current(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """The current device, last; as if there were two."""
    devices = [torch.device("cuda", 0)]

    @contextlib.contextmanager
    def device(chosen: torch.device) -> Iterator[None]:
        devices.append(torch.device(chosen))
        yield
        devices.pop()

    monkeypatch.setattr(torch.cuda, "device", device)
    return devices


@pytest.fixture
def launches(current: list[torch.device]) -> Iterator[list[tuple[str, torch.device]]]:
    """Name of each kernel that was launched, and the device that was the current one."""
    record: list[tuple[str, torch.device]] = []
    with stubbed_kernels(lambda name, _grid: record.append((name, current[-1]))), FakeTensorMode():
        yield record


def test_explain_activations_launches_on_the_features_device(launches, current):
    activations = torch.empty(2, 16, 5, 5, device=SECOND)
    explain_activations(activations, activations, (20, 20), engine="triton", on_invalid="flag")
    assert len(launches) > 10
    assert {device for _, device in launches} == {SECOND}
    assert current == [torch.device("cuda", 0)]


def test_a_call_runs_the_model_and_the_kernels_on_the_images_device(launches, current):
    """Without a backward pass, for which PyTorch wants a real device."""
    with SECOND:
        model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 4))
    images = torch.empty(2, 3, 8, 8, device=SECOND)
    ran = []
    model[1].register_forward_hook(lambda *_: ran.append(current[-1]))
    plain = CFCAM(model, "1", engine="torch", on_invalid="flag", method="eigencam")
    plain(images)
    assert ran == [SECOND]
    cam = CFCAM(model, "1", engine="triton", on_invalid="flag")
    features = plain._capture(images, None, differentiate=False, check=lambda: None)
    gradients = torch.empty(2, 1, 16, 6, 6, device=SECOND)
    cam.explain(dataclasses.replace(features, gradients=gradients))
    assert len(launches) > 10
    assert {device for _, device in launches} == {SECOND}


def test_cumls_fit_runs_on_the_features_device(monkeypatch, current):
    """cuML is a stand-in, and CUDA the CPU."""
    fitted = []

    def labels(rows: torch.Tensor, *_: object) -> torch.Tensor:
        fitted.append(current[-1])
        return torch.zeros(len(rows)).long()

    monkeypatch.setattr(cuml_engine, "_dbscan_labels", labels)
    monkeypatch.setattr(cuml_engine, "available", lambda _: (True, "stand-in"))
    activations = sys.modules["cfcam_gpu.activations"]
    monkeypatch.setattr(activations, "on_device", lambda _: on_device(SECOND))
    features = torch.rand(2, 12, 3, 3)
    explain_activations(features, features, (3, 3), engine="cuml")
    assert fitted == [SECOND] * 2


def test_a_dataset_run_is_prepared_and_warmed_up_on_its_device(monkeypatch, current):
    devices = []
    monkeypatch.setattr(local, "on_device", lambda _: on_device(SECOND))

    def explainer(*_arguments: object) -> Any:
        return types.SimpleNamespace(warm_up=lambda: devices.append(current[-1]))

    with local.opened_explainer(make_loaded(), RunOptions(layer="conv:relu"), torch.device("cpu"), explainer):
        devices.append(current[-1])
    assert devices == [SECOND] * 2
    assert current == [torch.device("cuda", 0)]


def test_other_devices_have_no_current_one(current):
    with on_device(torch.device("cpu")):
        assert current == [torch.device("cuda", 0)]
