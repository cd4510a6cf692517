"""Text that is printed."""

from __future__ import annotations

import os

import pytest

from cfcam_gpu._utils.messages import printable
from cfcam_gpu.cli.printing import print_table, say, shown_path


def test_bytes_of_a_file_name_that_are_no_text_are_printed_as_escapes():
    assert printable(os.fsdecode(b"a\xff.png")) == r"a\udcff.png"


@pytest.mark.parametrize(
    "name",
    [
        "\x1b]0;owned\x07a.png",
        "\x1b[2J.png",
        "a\nerror: forged.png",
        "a\r100 %.png",
        "\u202egnp.exe",
        "a\u2028b",
        "\x9b31m",
        "\ufeffa",
        "\u200b",
    ],
)
def test_a_name_can_neither_move_the_cursor_nor_forge_a_line(name: str, capsys: pytest.CaptureFixture[str]):
    say(f"skipped {name}: no image")
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert line.rstrip("\n").isprintable()
    assert line.endswith(": no image\n")


def test_a_cell_has_the_lines_that_it_is_given_and_no_others(capsys: pytest.CaptureFixture[str]):
    print_table({"metric": "left", "gradcam": "right"}, [("a\nb", ("0.36", "[0.13, 0.67]"))])
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["metric", "gradcam"],
        ["a\\nb", "0.36"],
        ["[0.13,", "0.67]"],
    ]


def test_a_file_is_shown_from_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shown_path({"uri": str(tmp_path / "in/a.png")}) == "in/a.png"
    assert shown_path({"uri": "/elsewhere/a.png"}) == "/elsewhere/a.png"
    assert shown_path({"uri": "tar:/x.tar#a@1+2"}) == "tar:/x.tar#a@1+2"
    assert shown_path({"uri": f"hf:{tmp_path}/in#0.arrow#image#7"}) == "hf:in#0.arrow#image#7"
    assert shown_path({"uri": "broken:list.csv, line 3#the path is empty"}) == "list.csv, line 3"
    for uri in ("s3://bucket/a.png", "tar:s3://bucket/x.tar#a@1+2"):
        assert shown_path({"uri": uri}) == uri
