"""The files of the plots."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cfcam_gpu.errors import InputError, MissingPackageError
from cfcam_gpu.evaluation.plots import plot_file, write_plots
from cfcam_gpu.evaluation.summary import summarise
from tests.helpers.evaluation_tables import COLUMNS, METHODS, VIEW, as_table, made_rows

pytest.importorskip("matplotlib", reason="needs matplotlib: pip install -e '.[plots]'")


def test_two_runs_draw_the_same_bytes(tmp_path: Path):
    table = as_table(made_rows(2, METHODS[:2]))
    summary = summarise(table, COLUMNS)
    first, second = (write_plots(summary, table, tmp_path / name, VIEW, columns=["blank"]) for name in "ab")
    drawn = [plot_file(name, theme) for name in ("curves", "bars", "grid") for theme in ("light", "dark")]
    assert [path.name for path in first] == drawn
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(
        MissingPackageError,
        match=r"matplotlib is not installed; run: pip install 'cfcam-gpu\[plots\]'",
    ):
        write_plots({}, as_table([]), tmp_path, VIEW)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "plots").write_text("in the way")
    table = as_table(made_rows(2))
    with pytest.raises(InputError, match=r"cannot write .*curves\.png: "):
        write_plots(summarise(table, COLUMNS), table, tmp_path, VIEW)
