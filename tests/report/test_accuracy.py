"""The report's tab of the accuracy."""

from __future__ import annotations

import re
from pathlib import Path

from cfcam_gpu.report import write_report
from tests.helpers.stored_run import made_row, write_store
from tests.report.test_browser import Reader


def cells(text: str, heading: str) -> list[list[str]]:
    """The texts of the table below a heading, row by row."""
    table = text[text.index(f"<h2>{heading}</h2>") :]
    rows = re.findall(r"<tr>(.*?)</tr>", table[: table.index("</table>")], re.DOTALL)
    return [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in rows]


def labelled(out: Path, pairs: list[tuple[str | None, int]], names: list[str]) -> str:
    rows = [
        made_row(i, label=label, pred=pred, pred_name=names[pred]) for i, (label, pred) in enumerate(pairs)
    ]
    return write_report(write_store(out, rows, names)).read_text("utf-8")


def test_classes_and_confusions_are_counted(tmp_path: Path):
    pairs: list[tuple[str | None, int]] = [
        ("cat", 0),
        ("cat", 0),
        ("cat", 1),
        ("dog", 1),
        ("2", 0),
        (None, 0),
    ]
    text = labelled(tmp_path / "out", pairs, ["cat", "dog", "wolf"])
    assert "3 of 5 predictions agree with their label (60.0%)." in text
    assert cells(text, "Confusion matrix") == [
        ["Label", "cat", "dog", "wolf"],
        ["cat", "2", "1", "0"],
        ["dog", "0", "1", "0"],
        ["wolf", "1", "0", "0"],
    ]
    assert cells(text, "Class by class") == [
        ["Class", "Samples", "Correct", "Accuracy"],
        ["wolf", "1", "0", "0.0%"],
        ["cat", "3", "2", "66.7%"],
        ["dog", "1", "1", "100.0%"],
    ]


def test_many_classes_are_a_list_of_confusions(tmp_path: Path):
    names = [f"kind {i}" for i in range(25)]
    pairs: list[tuple[str | None, int]] = [(name, i) for i, name in enumerate(names)]
    text = labelled(tmp_path / "out", [*pairs, ("kind 3", 4), ("kind 3", 4), ("kind 9", 1)], names)
    assert "Confusion matrix" not in text
    assert cells(text, "Most frequent confusions")[1:] == [
        ["kind 3", "kind 4", "2"],
        ["kind 9", "kind 1", "1"],
    ]


def test_samples_with_several_labels_count_in_no_table(tmp_path: Path):
    text = labelled(tmp_path / "out", [("cat|dog", 1), ("dog", 1)], ["cat", "dog"])
    assert "2 of 2 predictions agree with their label (100.0%). 1 of them have several labels" in text
    assert cells(text, "Confusion matrix")[1:] == [["dog", "1"]]


def test_a_run_without_labels_has_no_such_tab(tmp_path: Path):
    text = write_report(write_store(tmp_path / "out", [made_row(0)])).read_text("utf-8")
    assert "tab-accuracy" not in text.replace("`tab-", "")
    assert 'data-tab="accuracy"' not in text


def test_names_in_the_matrix_break_between_words_only_and_the_page_stays_as_wide_as_the_screen(
    browser, tmp_path
):
    names = ["espresso", "lighthouse", "missile", "moped", "stethoscope"]
    labelled(tmp_path / "out", [(name, i) for i, name in enumerate(names)], names)
    reader = Reader(browser, (tmp_path / "out/report.html").as_uri())
    reader.page.set_viewport_size({"width": 400, "height": 900})
    reader.page.locator("nav button", has_text="Accuracy").click()
    headings = reader.page.locator(".matrix th")
    heights = {round(one.bounding_box()["height"]) for one in headings.all()}
    assert len(heights) <= 2  # those of the head and those of a row: a line each
    assert max(heights) < 45
    assert reader.page.evaluate("document.documentElement.scrollWidth") == 400
    assert not reader.problems
