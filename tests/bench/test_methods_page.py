# ruff: noqa: RUF001 (the dash of tables)
"""The tables of docs/methods.md are those of the committed results."""

from __future__ import annotations

from bench import methods_page, pages, readme


def test_the_tables_are_those_of_the_results():
    page = methods_page.PAGE.read_text(encoding="utf-8")
    assert pages.rewritten(page, methods_page.tables(readme.read_results(("evaluation",)))) == page


def test_a_missing_figure_is_a_dash_and_a_verdict_a_mark():
    summary = {
        "methods": {
            "gradcam": {"pointing": {"mean": 0.5, "n": 9}},
            "cfcam": {"pointing": {"mean": None}},
            "x": {"pointing": {"mean": 0.754, "n": 7}},
        },
        "paired": {"x": {"pointing": {"verdict": "better"}}},
        "cost": {"gradcam": 40.2, "cfcam": 38.0, "x": 1.4},
    }
    lines = methods_page._evaluation(summary, {"pointing": "pointing ↑"}).splitlines()
    assert lines[2:] == ["| `gradcam` | 0.50 | 40 |", "| `cfcam` | – | 38 |", "| `x` | 0.75 (7) ▲ | 1 |"]
