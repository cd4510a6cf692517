"""`cfcam report`."""

from __future__ import annotations

from pathlib import Path

from tests.helpers.command import FAILED, OK, SKIPPED, cfcam
from tests.helpers.tinynet import TINY


def test_report_of_a_run_with_or_after_it_and_of_a_folder_that_is_none(mixed):
    ran = cfcam("explain", str(mixed), "--out", "out", *TINY, "--report")
    assert ran.status == SKIPPED
    assert "report: out/report.html" in ran.err
    with_the_run = Path("out/report.html").read_text()
    assert all(text in with_the_run for text in ("a.png", "empty.jpg", "tinynet"))
    after = cfcam("report", "out", "--out", "page.html")
    assert (after.status, after.out) == (OK, "report: page.html\n")
    assert len(Path("page.html").read_text()) == len(with_the_run)
    nothing = cfcam("report", "good")
    assert nothing.status == FAILED
    assert "Traceback" not in nothing.err
    assert nothing.err.count("\n") == 1
