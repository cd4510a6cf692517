"""What is printed of a run: progress where there is no terminal, and how much of a large one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cfcam_gpu import cli
from cfcam_gpu.cli import printing
from cfcam_gpu.cli.printing import Follower, Outcome, place
from cfcam_gpu.dataset import open_results
from cfcam_gpu.dataset.execution.observer import Tally
from tests.helpers.smallnet import photo, run, save


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that the test sets."""
    now = [1000.0]
    monkeypatch.setattr(printing.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_there_is_one_line_every_30_seconds(clock, capsys):
    with Follower() as follower:
        follower.begin(5000, Tally(ok=990, skipped=10))
        for second in range(61):
            clock[0] = 1000.0 + second
            for _ in range(2):
                follower.row({"status": "ok"})
            follower.tick()
            follower.tick()
        follower.row({"status": "error", "uri": "tar:a.tar#b", "message": "no image"})
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "1000 of 5000 samples were done before, 10 failed (--retry-failed redoes these)",
        "1062 of 5000 samples, 2.1 images/s, 10 errors, about 0:31:45 left",
        "1122 of 5000 samples, 2.0 images/s, 10 errors, about 0:31:47 left",
        "skipped tar:a.tar#b: no image",
    ]


def test_time_left_is_not_guessed_before_anything_is_done(clock, capsys):
    with Follower() as follower:
        follower.begin(5, Tally())
        clock[0] += 31
        follower.tick()
    assert capsys.readouterr().err == "0 of 5 samples, 0.0 images/s, 0 errors, time left not known yet\n"


def test_a_file_is_shown_from_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert place({"uri": str(tmp_path / "in/a.png")}) == "in/a.png"
    assert place({"uri": "/elsewhere/a.png"}) == "/elsewhere/a.png"
    assert place({"uri": "tar:/x.tar#a@1+2"}) == "tar:/x.tar#a@1+2"


@pytest.fixture
def eight(tmp_path: Path) -> tuple[Path, Outcome]:
    """A run of four pictures and four files that are none."""
    good = {f"a{i}": photo(i) for i in range(4)}
    folder = save(tmp_path / "in", **good, **{f"b{i}": b"" for i in range(4)})
    summary = run(folder, tmp_path / "out")
    return tmp_path / "out", Outcome(summary, open_results(tmp_path / "out"))


@pytest.mark.parametrize(("most", "problems", "listed"), [(8, 2, 8), (7, 2, 2), (7, 100, 4)])
def test_json_lists_all_of_a_few_samples_and_problems_of_many(eight, monkeypatch, most, problems, listed):
    monkeypatch.setattr(printing, "MOST_IN_JSON", most)
    monkeypatch.setattr(printing, "MOST_PROBLEMS", problems)
    _, outcome = eight
    content = outcome.as_json()
    blank = sum(bool(image["blank"]) for image in content["images"])
    assert len([image for image in content["images"] if not image["blank"]]) == min(listed, 8) - blank
    assert content["counts"]["skipped"] == 4
    assert content["samples"] == 8
    if most < 8:
        assert all(image["status"] == "error" or image["blank"] for image in content["images"])


def test_a_finished_run_says_what_was_done_before(eight, capsys):
    out, _ = eight
    summary = run(out.parent / "in", out)
    Outcome(summary, open_results(out)).print()
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.match(
        r"explained 4 of 8 images \(8 of them before\) in 0\.\d s \(0.0 images/s\), \d blank, 4 sk", last
    )


def test_the_command_exports_and_says_how_much(eight, tmp_path):
    out, _ = eight
    runner = CliRunner()
    done = runner.invoke(cli.app, ["export", str(out), str(tmp_path / "maps"), "--to", "fiftyone"])
    assert (done.exit_code, done.stdout) == (0, f"exported 4 samples to {tmp_path / 'maps'}\n")
    assert len(json.loads((tmp_path / "maps/samples.json").read_text())["samples"]) == 4
    again = runner.invoke(cli.app, ["export", str(out), str(tmp_path / "maps"), "--to", "png"])
    assert again.exit_code == 1
    assert again.stderr == f"error: {tmp_path / 'maps'} exists; name a file or folder that does not\n"
    wrong = runner.invoke(cli.app, ["export", str(out), str(tmp_path / "new"), "--to", "hdf5"])
    assert wrong.exit_code == 2
