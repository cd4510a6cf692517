"""Progress where there is no terminal: a line now and then."""

from __future__ import annotations

import pytest

from cfcam_gpu.cli import progress
from cfcam_gpu.cli.progress import Follower
from cfcam_gpu.dataset.execution.observer import Tally


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that the test sets."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
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
