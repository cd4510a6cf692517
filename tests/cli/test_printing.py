"""Text that is printed."""

from __future__ import annotations

import os

from cfcam_gpu.cli.printing import printable, shown_path


def test_bytes_of_a_file_name_that_are_no_text_are_printed_as_escapes():
    assert printable(os.fsdecode(b"a\xff.png")) == r"a\udcff.png"


def test_a_file_is_shown_from_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shown_path({"uri": str(tmp_path / "in/a.png")}) == "in/a.png"
    assert shown_path({"uri": "/elsewhere/a.png"}) == "/elsewhere/a.png"
    assert shown_path({"uri": "tar:/x.tar#a@1+2"}) == "tar:/x.tar#a@1+2"
