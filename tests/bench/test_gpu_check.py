"""The GPU check keeps what it finds whatever happens to its parts, and its parts compare what they should."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from bench import common, device_tests, gpu_check, gpu_parts, gpu_wheels
from cfcam_gpu import PRESETS, CFCAMConfig
from cfcam_gpu.engines import resolve_engine

ROOT = Path(__file__).parents[2]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OUT", str(tmp_path))
    return tmp_path / "gpu_check_dry_run.json"


def test_every_way_to_end_leaves_its_findings_and_the_parts_after_it(results, capsys):
    """A hang, a kill, an exception and a NaN, each in a process of its own."""
    assert gpu_check.main(["--dry-run"]) == 1
    content = json.loads(results.read_text())
    parts = content["parts"]
    assert list(parts) == ["machine", "good", "not a number", "hangs", "killed", "raises", "last"]
    assert {name: findings["state"] for name, findings in parts.items()} == {
        "machine": "done", "good": "done", "not a number": "done", "hangs": "timed out", "killed": "died",
        "raises": "failed", "last": "done",
    }  # fmt: skip
    assert parts["not a number"]["value"] is None
    assert parts["not a number"]["values"] == [None, 1.0]
    assert parts["hangs"]["half"] == 1
    assert parts["hangs"]["failed"] == ["did not end in 1 s; last line: none"]
    assert 1 <= parts["hangs"]["seconds"] < 30
    assert parts["killed"]["failed"][0].startswith("ended by signal 9")
    assert parts["raises"]["failed"] == ["RuntimeError: CUDA error: an illegal memory access was encountered"]
    assert [sentence.partition(":")[0] for sentence in content["skipped"]] == ["no time"]
    out = capsys.readouterr().out
    assert len(out) < gpu_check.SUMMARY
    assert "hangs: timed out" in out


def test_a_second_call_does_what_is_left(results):
    stubs = {name: gpu_check.STUBS[name] for name in ("machine", "good", "raises")}
    first = gpu_check.run(stubs, results, 60)
    first["parts"]["good"]["mark"] = "kept"
    gpu_check.write(results, first)
    second = gpu_check.run({**stubs, "last": gpu_check.STUBS["last"]}, results, 60)
    assert second["parts"]["good"]["mark"] == "kept"
    assert second["parts"]["last"]["state"] == "done"
    assert "mark" not in gpu_check.run(stubs, results, 60, again=True)["parts"]["good"]


@pytest.mark.parametrize("change", [{"sources": "other files"}, {"gpu": "another card"}])
def test_findings_of_other_sources_or_another_gpu_are_not_kept(results, change):
    stubs = {name: gpu_check.STUBS[name] for name in ("machine", "good")}
    first = gpu_check.run(stubs, results, 60)
    first["parts"]["good"]["mark"] = "kept"
    if "gpu" in change:
        first["parts"]["machine"]["gpu"] = change["gpu"]
    else:
        first |= change
    gpu_check.write(results, first)
    assert "mark" not in gpu_check.run(stubs, results, 60)["parts"]["good"]


def test_nothing_runs_after_a_required_part_that_failed(results):
    parts = dict(gpu_check.STUBS)
    parts["machine"] = gpu_check.Part("bench.gpu_check:stub_raises", 0, 5, required=True)
    assert list(gpu_check.run(parts, results, 60)["parts"]) == ["machine"]


def test_results_are_written_after_every_part(results, monkeypatch):
    stored_parts: list[list[str]] = []

    def run_part(_part: gpu_check.Part, limit_s: float) -> dict[str, Any]:
        stored_parts.append(list(gpu_check.read(results).get("parts", {})))
        return {"state": "done", "seconds": limit_s, "failed": []}

    monkeypatch.setattr(gpu_check, "run_part", run_part)
    gpu_check.run({name: gpu_check.STUBS[name] for name in ("machine", "good", "last")}, results, 60)
    assert stored_parts == [[], ["machine"], ["machine", "good"]]


def test_parts_that_time_nothing_run_side_by_side(results):
    hang = gpu_check.Part("bench.gpu_check:stub_hangs", 0, 1, timed=False)
    parts = {"machine": gpu_check.STUBS["machine"], **{f"hang {i}": hang for i in range(4)}}
    begun = time.monotonic()
    found = gpu_check.run(parts, results, 60)["parts"]
    assert [found[f"hang {i}"]["state"] for i in range(4)] == ["timed out"] * 4
    alone = max(found[f"hang {i}"]["seconds"] for i in range(4))
    assert time.monotonic() - begun < found["machine"]["seconds"] + 2.5 * alone


def test_the_limits_are_those_of_the_parts_and_of_the_time_that_is_left(results, monkeypatch):
    limits = {}

    def run_part(part: gpu_check.Part, limit_s: float) -> dict[str, Any]:
        limits[part.most_s] = limit_s
        return {"state": "done", "seconds": 0, "failed": []}

    monkeypatch.setattr(gpu_check, "run_part", run_part)
    work = "bench.gpu_check:stub_good"
    gpu_check.run({"a": gpu_check.Part(work, 1, 10), "b": gpu_check.Part(work, 1, 900)}, results, 100)
    assert limits[10] == 10
    assert limits[900] == pytest.approx(100, abs=5)


def test_the_most_likely_order_and_times():
    groups = gpu_check._side_by_side(gpu_check.PARTS)
    assert [list(group) for group in groups[:3]] == [
        ["machine"], ["equivalence", "no waits", "CUDA graph", "memory", "tests"], ["batch 64"],
    ]  # fmt: skip
    assert gpu_check.PARTS["equivalence"].most_s == gpu_check.PARTS["batch 64"].most_s == 90
    four_minutes = [max(part.least_s for part in group.values()) for group in groups[:4]]
    assert sum(four_minutes) < 240
    for part in gpu_check.PARTS.values():
        module, _, name = part.work.partition(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_a_long_summary_is_cut():
    failed = ["x" * 1000] * 50
    parts = {str(i): {"state": "failed", "seconds": 1, "failed": failed} for i in range(40)}
    assert len(gpu_check.summary({"parts": parts, "skipped": []})) <= gpu_check.SUMMARY


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_check_says_so(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "bench.gpu_check"],
        cwd=ROOT, env={**os.environ, "OUT": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 2
    assert "PyTorch finds no NVIDIA GPU here; nothing was checked" in run.stdout
    assert list(json.loads((tmp_path / "gpu_check.json").read_text())["parts"]) == ["machine"]


def test_an_unknown_part_is_named(capsys):
    with pytest.raises(SystemExit):
        gpu_check.main(["--only", "batch 65"])
    assert "unknown part batch 65; choose among: machine, equivalence" in capsys.readouterr().err


@pytest.fixture
def three_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that run here and one that does not."""
    engines = {"numba": (True, "here"), "torch": (True, "here"), "cuml": (False, "needs an NVIDIA GPU")}
    monkeypatch.setattr(gpu_parts, "engines", lambda _device: engines)


@pytest.mark.usefixtures("three_engines")
def test_every_engine_is_compared_or_named_with_the_reason():
    saved: list[Any] = []
    findings = gpu_parts.compare_engines(common.Setup(side=16), saved.append)
    assert findings["failed"] == []
    assert findings["engines"]["cuml"] == {"available": False, "reason": "needs an NVIDIA GPU"}
    cases = set(findings["engines"]["torch"]) - {"available", "reason"}
    assert len(cases) == len(PRESETS) + 3  # and three of generated features
    assert cases == set(findings["engines"]["numba"]) - {"available", "reason"}
    assert len(saved) == 2 * len(cases)


@pytest.mark.usefixtures("three_engines", "wrong_engine")
def test_an_engine_that_differs_fails_the_gpu_check_by_name():
    failed = gpu_parts.compare_engines(common.Setup(side=16), lambda _found: None)["failed"]
    wrong = resolve_engine("auto", torch.device("cpu"))
    assert len(failed) == len(PRESETS) + 3
    assert all(sentence.startswith(f"{wrong}, ") for sentence in failed)


@pytest.mark.parametrize("shape", [(7, 7), (5, 9), (1, 4), (3, 3)])
def test_the_loop_that_stands_in_for_an_old_opencv_is_its_filter(shape):
    config = CFCAMConfig(sigma_space=2.0, sigma_range=0.3)
    grid = np.random.default_rng(0).normal(size=shape)
    radius = config.radius(*shape)
    expected = grid
    if radius:
        expected = cv2.bilateralFilter(
            grid.astype(np.float32), 2 * radius + 1, 0.3, 2.0, borderType=cv2.BORDER_REFLECT_101
        )
    np.testing.assert_allclose(gpu_parts.exact_bilateral(grid, config), expected, atol=2e-6)


def test_the_readme_names_every_part_in_its_order():
    page = (ROOT / "bench" / "README.md").read_text(encoding="utf-8")
    section = page.partition("## GPU check")[2].partition("## Evaluation")[0]
    names = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("|")]
    assert names[2:] == list(gpu_check.PARTS)


def test_the_tests_that_run_on_the_gpu_are_there():
    assert all((ROOT / "tests" / name).is_file() for name in gpu_parts.TESTS)


def test_the_wheels_have_versions_and_only_the_large_one_is_optional(tmp_path):
    pure, compiled = gpu_wheels.commands(tmp_path, "3.12", opencv=False)
    assert all("==" in wheel for wheel in (*gpu_wheels.PURE, *gpu_wheels.COMPILED, gpu_wheels.OPENCV))
    assert set(gpu_wheels.PURE) <= set(pure)
    assert gpu_wheels.OPENCV not in compiled
    assert gpu_wheels.OPENCV in gpu_wheels.commands(tmp_path, "3.12", opencv=True)[1]


@pytest.mark.parametrize(
    ("item", "demo", "wanted"),
    [
        ({"run": SimpleNamespace(device="cuda")}, False, True),
        ({"run": SimpleNamespace(device="cpu")}, True, False),
        ({"run": SimpleNamespace(device="cuda"), "fixtures": ["lite0"]}, False, False),
        ({"run": SimpleNamespace(device="cuda"), "fixtures": ["lite0"]}, True, True),
        ({"fixtures": ["device"]}, False, True),
        ({}, True, False),
    ],
    ids=str,
)
def test_the_gpu_check_runs_the_tests_that_use_the_gpu(item, demo, wanted):
    collected = SimpleNamespace(
        callspec=SimpleNamespace(params={key: item[key] for key in item if key == "run"}),
        fixturenames=item.get("fixtures", []),
    )
    assert device_tests.wanted(collected, demo_installed=demo) == wanted
