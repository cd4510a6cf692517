"""What docs/method.md and docs/methods.md say of clusters is what the committed results say."""

from __future__ import annotations

from typing import Any

import pytest

from bench import method_pages, pages, readme


@pytest.mark.parametrize("path", method_pages.PAGES, ids=lambda path: path.name)
def test_the_tables_are_those_of_the_results(path):
    page = path.read_text(encoding="utf-8")
    tables = method_pages.pages(readme.read_results(method_pages.RESULTS))[path]
    assert pages.rewritten(page, tables) == page


def test_the_verdicts_make_the_sentence():
    result: dict[str, Any] = {
        "models": {"efficientnet-lite0": {}},
        "chosen": ["last: b"],
        "search": {"questions": 9, "variants": {"last: b": {}, "last: c": {}}},
        "verdicts": {
            "last: a": {"beats_shuffled": True, "beats_without": False},
            "last: b": {"beats_shuffled": True, "beats_without": False},
        },
    }
    sentence = " ".join(method_pages.shuffled(result).split())
    assert "for *last: a* of the presets. Of 2 other ways" in sentence
    assert "of 2), *last: b* has, on 9 questions" in sentence
    assert sentence.endswith("and none on the held-out half of all models, so none is offered as a preset.")
    result["verdicts"]["last: b"]["beats_without"] = True
    again = " ".join(method_pages.shuffled(result).split())
    assert again.endswith("*last: b* on the held-out half of all models.")
    result["search"]["variants"] = {}
    assert method_pages.shuffled(result).endswith("of the presets.")
