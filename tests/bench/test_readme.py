"""The README's tables are those of the committed results."""

from __future__ import annotations

from bench import pages, readme


def test_the_tables_are_those_of_the_results():
    page = readme.PAGE.read_text(encoding="utf-8")
    assert pages.rewritten(page, readme.tables(readme.read_results())) == page


def test_what_the_survey_found_is_said_in_a_sentence():
    verdicts = ("right", "wrong", "undecided", "not built")
    records = {f"timm:{verdict}": {"verdict": verdict} for verdict in verdicts}
    sentence = readme.survey(records)
    assert sentence.startswith(
        "Of 3 classifiers of torchvision, timm and transformers, untrained, 1 are right, "
    )
    assert "0 refused, 1 undecided, 1 wrong" in sentence
    assert "none wrong" in readme.survey({"timm:right": {"verdict": "right"}})
