"""Comparisons of made-up answers whose intervals and p are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.scene_statistics import compared, holm, summary


def names(count: int, times: int = 1) -> list[str]:
    return [str(index // times) for index in range(count * times)]


def test_an_interval_is_that_of_the_normal_distribution():
    """400 photos, differences 0.1 ± 1: the mean's standard error is 1/20."""
    differences = 0.1 + np.tile([-1.0, 1.0], 200)
    found = compared(differences, np.zeros(400), names(400), names(400))
    assert found["difference"] == pytest.approx(0.1)
    assert found["low"] == pytest.approx(0.1 - 1.96 / 20, abs=0.006)
    assert found["high"] == pytest.approx(0.1 + 1.96 / 20, abs=0.006)
    assert found["p"] == pytest.approx(
        math.erfc(2 / math.sqrt(2)), abs=0.012
    )  # the mean is two errors from 0
    assert "low_object" not in found


def test_answers_about_one_photo_are_one_observation():
    """Asked ten times, photos say no more than once; taken for independent, the interval would be a third as wide."""
    differences = 0.1 + np.tile([-1.0, 1.0], 50)
    once = compared(differences, np.zeros(100), names(100), names(100))
    ten_times = compared(np.repeat(differences, 10), np.zeros(1000), names(100, 10), names(1000))
    assert ten_times["photos"] == 100
    for end in ("low", "high", "p"):
        assert ten_times[end] == pytest.approx(once[end], abs=1e-12)


def test_answers_about_one_object_are_one_observation():
    """Ten objects, each in ten photos that all agree: 100 photos know no more than ten objects do."""
    by_object = np.repeat(np.tile([-0.5, 1.0], 5), 10)
    found = compared(by_object, np.zeros(100), names(100), names(10, 10))
    ten = compared(np.tile([-0.5, 1.0], 5), np.zeros(10), names(10), names(10))
    assert (found["low_object"], found["high_object"]) == pytest.approx((ten["low"], ten["high"]))
    assert found["objects"] == 10
    assert found["p"] == ten["p"] > 0.1
    width, width_object = found["high"] - found["low"], found["high_object"] - found["low_object"]
    assert width_object / width == pytest.approx(math.sqrt(10), rel=0.15)


def test_p_of_three_photos_that_agree():
    """Of eight patterns of signs two are as extreme: p is 1/4, however large the difference."""
    found = compared([9.0, 9.0, 9.0], [0.0, 0.0, 0.0], names(3), names(3))
    assert found["p"] == pytest.approx(0.25, abs=0.01)


def test_a_method_that_is_the_same_does_not_differ():
    found = compared([0.1, 0.7, 0.3], [0.1, 0.7, 0.3], names(3), names(3))
    assert (found["difference"], found["low"], found["high"], found["p"]) == (0, 0, 0, 1)


def test_nineteen_of_twenty_intervals_hold_the_true_difference():
    """Photos with a mean of their own, two answers each; in 300 sets, 95 % ± three standard errors, less bootstrap's
    known shortfall of a percent or two with 40 photos.
    """
    rng = np.random.default_rng(7)
    held, below = 0, 0
    for _ in range(300):
        answers = np.repeat(rng.normal(0.2, 1, 40), 2) + rng.normal(0, 0.5, 80)
        found = compared(answers, np.zeros(80), names(40, 2), names(80))
        held += found["low"] <= 0.2 <= found["high"]
        null = compared(answers - 0.2, np.zeros(80), names(40, 2), names(80))
        below += null["p"] < 0.05
    assert 0.90 <= held / 300 <= 0.985
    assert below / 300 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)


def test_questions_without_a_value_are_left_out():
    nan = math.nan
    found = compared([1.0, nan, 3.0], [0.0, 0.0, nan], names(3), names(3))
    assert (found["difference"], found["photos"], found["low"], found["p"]) == (1.0, 1, None, 1.0)
    assert compared([nan], [1.0], ["a"], ["a"])["difference"] is None


def test_holm():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.02, "d": 0.9}) == {"a": 0.04, "c": 0.06, "b": 0.08, "d": 0.9}
    assert holm({}) == {}


def answers() -> dict[str, dict[str, list[float]]]:
    """Twelve photos: ours is better than the base by 0.5 in both columns, and than its best rivals by less."""
    base = [0.1 * (index % 3) for index in range(12)]
    return {
        "base": {"gain": base, "loss": base},
        "ours": {"gain": [b + 0.5 for b in base], "loss": [b - 0.5 for b in base]},
        "strong": {"gain": [b + 0.4 for b in base], "loss": [b + 0.4 for b in base]},
        "low": {"gain": [b - 0.4 for b in base], "loss": [b - 0.4 for b in base]},
    }


def summary_of_answers(rivals):
    return summary(
        answers(),
        names(12),
        names(12),
        base="base",
        better={"gain": "higher", "loss": "lower"},
        families={"ours": "ours", "base": "others", "strong": "others", "low": "others"},
        rivals={"ours": rivals},
    )


def test_the_best_rival_is_that_of_the_column():
    found = summary_of_answers(["base", "strong", "low"])
    ours = found["ours"]
    assert (ours["gain"]["rival"]["method"], ours["loss"]["rival"]["method"]) == ("strong", "low")
    assert ours["gain"]["difference"] == pytest.approx(0.5)
    assert ours["gain"]["rival"]["difference"] == pytest.approx(0.1)
    assert ours["loss"]["rival"]["difference"] == pytest.approx(-0.1)
    assert "rival" not in found["strong"]
    assert ours["gain"]["mean"] == pytest.approx(0.6)


def test_p_is_corrected_for_all_comparisons_of_a_family():
    """Ours makes two comparisons, the others four; the base none."""
    found = summary_of_answers(["low"])
    p = found["ours"]["gain"]["p"]
    assert p == pytest.approx(2 / 2**12, abs=5e-4)
    assert found["ours"]["gain"]["p_holm"] == pytest.approx(2 * p, abs=1e-4)
    assert found["strong"]["gain"]["p_holm"] == pytest.approx(4 * p, abs=1e-4)
    assert "p_holm" not in found["base"]["gain"]
    rival = found["ours"]["gain"]["rival"]
    assert rival["p_holm"] == pytest.approx(2 * rival["p"], abs=1e-4)
