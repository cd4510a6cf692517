"""How help and mistakes are laid out."""

from __future__ import annotations

import io
import sys

import click
import pytest

from cfcam_gpu.cli.help import Row, error_panel, help_page

ROWS = [
    Row("--out", "DIR", "Folder of the results.", required=True),
    Row("--size", "SIZE", "Input size, 224 or 224x320 (height x width). [default: as trained]"),
]


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "50")


@pytest.mark.usefixtures("narrow")
def test_options_stand_in_columns_and_a_default_in_one_line():
    page = help_page(
        "cfcam show IN", "Shows it.\n\nMore of\nthis.", {"Output": ROWS, "Empty": []}, "\n Examples:\n"
    )
    assert click.unstyle(page).splitlines() == [
        "",
        " Usage: cfcam show IN",
        "",
        " Shows it.",
        "",
        " More of this.",
        "",
        *map(
            str.strip,
            """
            ╭─ Output ───────────────────────────────────────╮
            │ *  --out   DIR   Folder of the results.        │
            │    --size  SIZE  Input size, 224 or 224x320    │
            │                  (height x width).             │
            │                  [default: as trained]         │
            ╰────────────────────────────────────────────────╯
            """.strip().splitlines(),
        ),
        " Examples:",
    ]


@pytest.mark.usefixtures("narrow")
def test_a_terminal_without_box_characters_gets_plain_ones(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="latin-1"))
    assert click.unstyle(error_panel("No such option.")).splitlines() == [
        "+- Error ----------------------------------------+",
        "| No such option.                                |",
        "+------------------------------------------------+",
    ]
