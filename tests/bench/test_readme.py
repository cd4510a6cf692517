"""The figures of the README and of the pages in docs are those of the committed results."""

from __future__ import annotations

import pytest

from bench import pages, readme


@pytest.mark.parametrize("path", readme.PAGES, ids=lambda path: path.name)
def test_the_tables_are_those_of_the_results(path):
    page = path.read_text(encoding="utf-8")
    assert pages.rewritten(page, readme.pages(readme.read_results())[path]) == page


def test_every_table_has_its_page():
    placed = [name for names in readme.PAGES.values() for name in names]
    assert sorted(placed) == sorted(readme.tables(readme.read_results()))


def test_a_changed_result_changes_the_sentences():
    results = readme.read_results()
    before = readme.which(results)
    results["discrimination"]["presets"]["upstream"]["correlation"] = 0.125
    for model in results["scenes"]["models"].values():
        model["scenes"]["methods"]["cfcam-sharp"]["average_drop"]["p_holm"] = 0.01
    after = before.replace("correlation 1.00", "correlation 0.12").replace("within chance", "beyond chance")
    assert readme.which(results) == after != before


def test_what_the_survey_found_is_said_in_a_sentence():
    verdicts = ("right", "wrong", "undecided", "not built")
    records = {f"timm:{verdict}": {"verdict": verdict} for verdict in verdicts}
    sentence = readme.survey(records)
    assert sentence.startswith(
        "Of 3 classifiers of torchvision, timm and transformers, untrained, 1 are right, "
    )
    assert "0 refused, 1 undecided, 1 wrong" in sentence
    assert "none wrong" in readme.survey({"timm:right": {"verdict": "right"}})
