"""The command `cfcam evaluate`."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cfcam_gpu.evaluation import cost
from cfcam_gpu.evaluation.store import EvaluationStore
from tests.helpers.command import FAILED, OK, SKIPPED, USAGE, Outcome, cfcam, parsed
from tests.helpers.launcher import Launcher, is_alive, wait_until
from tests.helpers.small_evaluation import stored_rows, stored_table
from tests.helpers.smallnet import photo, save

FACTORY = """
import torch
from torch import nn

def make():
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(96, 3)
    )
"""

FAST = ("--metrics", "drop,class_sensitivity", "--no-plots")

TINY = (
    *("--model", "py:evalnet:make", "--size", "32"),
    *("--device", "cpu", "--engine", "torch", "--workers", "0"),
)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of commands: a model, and five pictures in `in/`. Speeds are measured in one turn."""
    save(tmp_path / "in", **{f"p{i}": photo(i) for i in range(5)})
    (tmp_path / "evalnet.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cost, "_FEWEST", 1)
    monkeypatch.setattr(cost, "_ENOUGH", 0.0)
    return tmp_path


def evaluate(*arguments: str) -> Outcome:
    """`cfcam evaluate in --out out` of a small model; later arguments count."""
    return cfcam("evaluate", "in", "--out", "out", *TINY, *FAST, *arguments)


def test_the_command_prints_a_table_with_marks_and_speed(work):
    ended = evaluate("--methods", "cfcam,cfcam:upstream,gradcam")
    assert ended.status == OK
    lines = ended.out.splitlines()
    assert lines[0].split() == ["metric", "cfcam", "cfcam:upstream", "gradcam"]
    assert "average drop ↓" in ended.out
    assert "\\n" not in ended.out  # an interval stands below its mean
    assert "1.00 × gradcam" in ended.out  # noqa: RUF001
    stored = json.loads((work / "out/summary.json").read_text())
    entry = stored["methods"]["gradcam"]["average_drop"]
    assert f"{entry['mean']:.3f}" in ended.out
    assert f"[{entry['low']:.3f}, {entry['high']:.3f}]" in ended.out
    assert lines[-2].startswith("evaluated 3 methods on 5 of 5 images in")
    assert lines[-1] == "report: out/report.html"
    assert stored["cost"].keys() == {"cfcam", "cfcam:upstream", "gradcam"}
    assert all(speed > 0 for speed in stored["cost"].values())


def test_json_is_one_object_and_a_bad_image_a_status_of_its_own(work):
    (work / "in/cut.png").write_bytes((work / "in/p0.png").read_bytes()[:90])
    ended = evaluate("--json")
    assert ended.status == SKIPPED
    assert "skipped in/cut.png: " in ended.err
    result = parsed(ended.out)
    blank = len({row["sample_id"] for row in stored_rows(work / "out", "blank") if row["blank"]})
    assert result["counts"] == {"ok": 5, "skipped": 1, "blank": blank}
    assert result["methods"] == ["cfcam", "gradcam"]
    assert result["metrics"] == ["drop", "class_sensitivity"]
    assert result["summary"]["failed"] == 1
    assert result["summary"]["methods"]["cfcam"]["average_drop"]["n"] == 5
    assert "curves" not in result["summary"]
    assert result["report"] == "out/report.html"


@pytest.mark.usefixtures("work")
@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (
            ("--metrics", "drops"),
            USAGE,
            "error: unknown metric 'drops' (did you mean drop?); choose one of: ",
        ),
        (
            ("--metrics", "drop,,road"),
            USAGE,
            "error: --metrics takes names separated by commas, got 'drop,,road'",
        ),
        (("--methods", "cam"), USAGE, "error: unknown method 'cam'"),
        (
            ("--metrics", "localisation"),
            USAGE,
            "error: metric 'localisation' needs masks of the objects and no",
        ),
        (("--masks", "nowhere"), FAILED, "error: the folder of masks 'nowhere' does not exist"),
        (("--steps", "1"), USAGE, "error: steps must be an integer of at least 2, got 1"),
        (
            ("--noise-levels", "2,1"),
            USAGE,
            "error: noise_levels must be a tuple of increasing numbers above 0",
        ),
        (("--noise-levels", "much"), USAGE, "error: --noise-levels must be numbers separated by commas"),
        (("--noise-draws", "0"), USAGE, "error: noise_draws must be an integer of at least 1, got 0"),
        (("--layer", "9"), FAILED, "error: "),
    ],
)
def test_mistakes_end_in_one_line(arguments, status, message):
    ended = evaluate(*arguments)
    assert ended.status == status
    assert ended.err.startswith(message)
    assert ended.err.count("\n") == 1
    assert ended.out == ""


@pytest.mark.usefixtures("work")
def test_a_share_says_that_others_are_left():
    ended = evaluate("--part-size", "2", "--rank", "1", "--world-size", "2", "--json")
    assert ended.status == OK
    assert "2 parts of other processes are not done yet" in ended.err
    result = parsed(ended.out)
    assert (result["summary"], result["report"], result["others_left"]) == (None, None, 2)


@pytest.fixture
def launcher(work: Path) -> Iterator[Launcher]:
    started = Launcher(work)
    yield started
    started.close()


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_and_ends_the_same(work, launcher):
    save(work / "in", **{f"q{i:02}": photo(i) for i in range(40)})
    arguments = ("evaluate", "in", *TINY, *FAST, "--part-size", "2", "--batch-size", "2", "--out")
    assert launcher.run(*arguments, "whole").status == OK
    for number in (signal.SIGKILL, signal.SIGINT):
        out = work / f"ended{number}"
        process = launcher.start(*arguments, str(out))
        store = EvaluationStore(out, ())
        wait_until(
            lambda store=store, process=process: len(store.finished_parts()) >= 2 or not is_alive(process.pid)
        )
        process.kill(number)
        assert process.wait().status == {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130}[number]
        assert not (out / "metrics.parquet").exists()
        ended = launcher.run(*arguments, str(out))
        assert ended.status == OK, ended.err
        assert "samples were done before" in ended.err
        assert stored_table(out).equals(stored_table(work / "whole"))
        assert not list(out.rglob("*.part"))
