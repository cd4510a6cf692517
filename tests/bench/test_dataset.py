"""The benchmark of dataset runs: forward passes on the device, and the cores that feed it."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import pytest
import torch

from bench import dataset
from tests.helpers.smallnet import make_loaded


def test_a_model_is_measured_with_its_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    dataset.generate(folder, 50)
    (tmp_path / "host.json").write_text(json.dumps({"main_cpu_ms_per_image": 0.25}))
    monkeypatch.setattr(dataset, "RESULTS", tmp_path)
    monkeypatch.setattr(dataset, "load_model", lambda _spec: make_loaded())
    options = argparse.Namespace(
        measure="small", folder=folder, seconds=0.1, device="cpu", batch=8, workers=1
    )
    measured = dataset.measure(options, tmp_path / "out")
    for row in measured["rates"].values():
        assert (row["ok"], row["failed"]) == (49, 1)
        assert row["of_forward"] == pytest.approx(row["images_per_s"] / row["forward_only"], abs=6e-4)
    cores = measured["cores"]
    assert cores["busy_cores_per_1000_images_per_s"] == {
        "decoding": pytest.approx(cores["decode_cpu_ms"], abs=1e-3),
        "main process": 0.25,
    }


def test_the_speed_of_forward_passes_is_that_of_the_batch() -> None:
    loaded, calls = make_loaded(), list[int]()

    def slow(*_: object) -> None:
        calls.append(1)
        time.sleep(0.05)

    loaded.model.register_forward_hook(slow)
    rate = dataset.forward_rate(loaded, torch.device("cpu"), 8, 0.5)
    assert 8 * (len(calls) - 1) / 0.5 >= rate > 8 * (len(calls) - 1) / 5


def test_the_main_process_is_left_out_where_it_was_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "RESULTS", tmp_path)
    assert dataset.main_process_ms() is None
    assert dataset.cores(2000, 4.0, dataset.main_process_ms()) == {"decoding": 8.0}
