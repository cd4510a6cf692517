# ruff: noqa: RUF001 (the minus sign and the dash of the tables)
"""The summary's numbers as text."""

from __future__ import annotations

from typing import Any

import pytest

from cfcam_gpu.errors import ConfigError
from cfcam_gpu.evaluation.summary import summarise
from cfcam_gpu.evaluation.tables import (
    best_method,
    conclusion,
    legend,
    number,
    same_for_every_class,
    scalars,
    speed,
    title,
)
from tests.helpers.evaluation_tables import COLUMNS, as_table, failure, made_rows


@pytest.fixture(scope="module")
def summary() -> dict[str, Any]:
    return summarise(as_table([*made_rows(60), failure(0), failure(1)]), COLUMNS)


def test_an_unknown_column_is_refused_with_the_choices(summary: dict[str, Any]):
    with pytest.raises(ConfigError, match="unknown column 'auc'; choose from: blank, deletion_black_auc"):
        scalars(summary, ["auc"])


def test_the_legend_says_of_how_many_images(summary: dict[str, Any]):
    assert "60 images with 95% bootstrap intervals" in legend(summary)
    assert "better" in legend(summary)


@pytest.mark.parametrize(
    ("value", "signed", "text"),
    [(0.12345, False, "0.123"), (-0.25, False, "−0.250"), (0.1, True, "+0.100"), (0, True, "+0.000"),
     (0.000042, False, "4.20e−05"), (12345.0, False, "1.23e+04"), (None, False, "–")],
)  # fmt: skip
def test_numbers(value, signed, text):
    assert number(value, signed=signed) == text


def test_titles():
    assert title("gradient_noise_ssim_curve") == "gradient noise SSIM"
    assert title("iou_50") == "IoU 50"


@pytest.mark.parametrize(("similarity", "said"), [(0.5, []), (1.0, ["cfcam"])])
def test_a_map_that_is_the_same_for_every_class_is_named(similarity: float, said: list[str]):
    """Its stability under noise must not be taken for a merit."""
    entry = {"similarity_least": {"mean": similarity}}
    found = {"methods": {"gradcam": {"similarity_least": {"mean": None}}, "cfcam": entry}}
    assert [sentence.split()[0] for sentence in same_for_every_class(found)] == said


def entries(**means: float | None) -> dict[str, Any]:
    return {method: {"drop": {"mean": mean}} for method, mean in means.items()}


@pytest.mark.parametrize(
    ("means", "verdicts", "best"),
    [
        ({"base": 0.3, "a": 0.2, "b": 0.1}, {"a": "better", "b": "better"}, "b"),
        ({"base": 0.3, "a": 0.2, "b": 0.1}, {"a": "better", "b": None}, None),
        ({"base": 0.1, "a": 0.2, "b": 0.3}, {"a": "worse", "b": "worse"}, "base"),
        ({"base": 0.1, "a": 0.2, "b": 0.3}, {"a": None, "b": "worse"}, None),
        ({"base": 0.1, "a": None}, {}, None),
    ],
)
def test_the_best_method_is_named_only_where_it_is_clear(
    means: dict[str, float | None], verdicts: dict[str, str | None], best: str | None
):
    paired = {method: {"drop": {"verdict": kind}} for method, kind in verdicts.items()}
    summary = {"methods": entries(**means), "paired": paired, "baseline": "base"}
    assert best_method(summary, "drop", "lower") == best
    assert best_method(summary, "drop", "") is None


def test_speeds_stand_beside_the_baselines():
    summary = {"cost": {"cfcam": 10.0, "gradcam": 20.0}, "baseline": "gradcam"}
    assert speed(summary, "cfcam") == ("10", "0.50 × gradcam")
    assert speed(summary, "random") == ("–", "")
    assert speed({**summary, "baseline": None}, "cfcam") == ("10", "")


@pytest.mark.parametrize(
    ("verdicts", "sentence"),
    [
        (
            {"a": ["better", "worse", "better"], "b": ["better", None, None]},
            "a is better than base in 2 of 3 measures (drop, deletion AUC) and worse in 1 (road).",
        ),
        (
            {"a": ["worse", "worse", "better"], "b": ["better", None, None]},
            "b is better than base in 1 of 3 measures (drop) and worse in none.",
        ),
        (
            {"a": ["worse", "better", None]},
            "no method is better than base in more measures than it is worse.",
        ),
        ({}, "nothing was compared: there is no baseline, or no other method."),
    ],
)
def test_the_conclusion_is_the_method_with_the_best_balance(verdicts, sentence):
    names = ("drop", "road", "deletion_auc")
    columns = [{"name": name, "curve": False, "better": "lower"} for name in names]
    columns.append({"name": "peak", "curve": False, "better": ""})
    paired = {
        method: {name: {"verdict": one} for name, one in zip(names, row, strict=True)}
        for method, row in verdicts.items()
    }
    summary = {"images": 1, "columns": columns, "paired": paired, "baseline": "base"}
    assert conclusion(summary).removeprefix("Over 1 image ").replace("ROAD", "road") == sentence
