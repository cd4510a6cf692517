"""Progress where there is no terminal: a line now and then."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from cfcam_gpu.cli import progress
from cfcam_gpu.cli.progress import Follower
from cfcam_gpu.dataset.execution.observer import Tally


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that the test sets."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "datetime", _Clock(now))
    return now


class _Clock:
    """Stands for `datetime`: the test's second 1000 is noon of 1 May 2026."""

    def __init__(self, now: list[float]) -> None:
        self._now = now

    def now(self) -> datetime:
        return datetime(2026, 5, 1, 12) + timedelta(seconds=self._now[0] - 1000)


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
        "2026-05-01 12:00:30 1062 of 5000 samples, 2.1 images/s, 10 errors, about 0:31:45 left",
        "2026-05-01 12:01:00 1122 of 5000 samples, 2.0 images/s, 10 errors, about 0:31:47 left",
        "skipped tar:a.tar#b: no image",
    ]


def test_time_left_is_not_guessed_before_anything_is_done(clock, capsys):
    with Follower() as follower:
        follower.begin(5, Tally())
        clock[0] += 31
        follower.tick()
    line = "2026-05-01 12:00:31 0 of 5 samples, 0.0 images/s, 0 errors, time left not known yet\n"
    assert capsys.readouterr().err == line


def test_a_batch_of_many_steps_tells_how_far_it_is(clock, capsys):
    with Follower() as follower:
        follower.begin(64, Tally())
        for seconds, steps in ((31, 40), (62, 90), (93, 3), (124, 60), (155, 95)):
            clock[0] = 1000.0 + seconds
            if steps == 3:
                follower.row({"status": "ok"})
            follower.step(steps)
            follower.tick()
    inside = [line.split("errors,")[1].split("batch,")[0] for line in capsys.readouterr().err.splitlines()]
    expected = ["step 40", "step 90", "step 3 of about 90", "step 60 of about 90", "step 95"]
    assert inside == [f" {text} in this " for text in expected]
