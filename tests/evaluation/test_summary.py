"""Means and paired differences of a table."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cfcam_gpu.errors import ConfigError, StoreError
from cfcam_gpu.evaluation.summary import summarise
from cfcam_gpu.evaluation.tables import legend
from tests.helpers.evaluation_tables import COLUMNS, METHODS, as_table, failure, made_rows, row


@pytest.fixture(scope="module")
def summary() -> dict[str, Any]:
    return summarise(as_table([*made_rows(60), failure(0), failure(1)]), COLUMNS)


def test_means_are_those_of_the_rows(summary: dict[str, Any]):
    rows = made_rows(60)
    for method in METHODS:
        expected = np.mean([np.float32(r["average_drop"]) for r in rows if r["method"] == method])
        entry = summary["methods"][method]["average_drop"]
        assert entry["mean"] == pytest.approx(expected, rel=1e-5)
        assert entry["low"] < expected < entry["high"]
        assert entry["n"] == 60
        assert summary["methods"][method]["pointing"]["n"] == 30  # masks of half of the images
    assert (summary["images"], summary["failed"]) == (60, 2)


def test_verdicts_follow_the_better_side(summary: dict[str, Any]):
    found = {name: entry["verdict"] for name, entry in summary["paired"]["random"].items()}
    assert found["deletion_black_auc"] == "better"  # lower, and lower is better
    assert found["insertion_black_auc"] == "worse"
    assert found["edges_ssim"] == "differs"
    assert found["average_drop"] is None
    assert summary["paired"]["cfcam"]["deletion_black_auc"]["difference"] == pytest.approx(-0.1, abs=0.02)
    assert "gradcam" not in summary["paired"]


def test_pairs_see_what_the_spread_between_images_hides():
    """The images differ by 0.1, the methods by 0.03 on each: only the paired interval excludes 0."""
    rows = [
        row(image, method, 0, deletion_black_auc=0.05 * image + (0.03 if method == "cfcam" else 0))
        for image in range(12)
        for method in METHODS[:2]
    ]
    found = summarise(as_table(rows), COLUMNS)
    plain = [found["methods"][m]["deletion_black_auc"] for m in METHODS[:2]]
    assert plain[0]["high"] > plain[1]["low"]
    assert found["paired"]["cfcam"]["deletion_black_auc"]["verdict"] == "worse"


def test_differences_are_of_the_images_that_both_have():
    """Without the pairing the absent, much higher images of the baseline would make the method look better."""
    rows = [row(i, "gradcam", 0, average_drop=float(i)) for i in range(10)]
    rows += [row(i, "cfcam", 0, average_drop=i + 0.5) for i in range(6)]
    entry = summarise(as_table(rows), COLUMNS)["paired"]["cfcam"]["average_drop"]
    assert entry == {"difference": 0.5, "low": 0.5, "high": 0.5, "n": 6, "verdict": "worse"}


@pytest.mark.parametrize(
    ("images", "level", "found"), [(5, 0.95, None), (6, 0.95, "better"), (6, 0.99, None)]
)
def test_few_images_of_one_sign_are_no_verdict(images: int, level: float, found: str | None):
    """Five differences have one sign by chance in 1 of 16 cases, whatever their interval is."""
    paired = summarise(as_table(made_rows(images)), COLUMNS, level=level)["paired"]["random"][
        "deletion_black_auc"
    ]
    assert paired["high"] < 0
    assert paired["verdict"] == found


def test_a_method_equal_to_the_baseline_differs_in_nothing():
    rows = [{**row(i, "gradcam", 0), "method": method} for i in range(9) for method in METHODS]
    for entry in summarise(as_table(rows), COLUMNS)["paired"]["random"].values():
        assert (entry["difference"], entry["low"], entry["high"], entry["verdict"]) == (0, 0, 0, None)


def test_curves_have_an_interval_at_each_position(summary: dict[str, Any]):
    curve = summary["curves"]["cfcam"]["deletion_black_curve"]
    assert {key: len(values) for key, values in curve.items()} == dict.fromkeys(
        ("mean", "low", "high", "n"), 21
    )
    assert curve["mean"][0] == pytest.approx(
        summary["methods"]["cfcam"]["insertion_black_auc"]["mean"], rel=1e-5
    )
    assert curve["low"][0] < curve["mean"][0] < curve["high"][0]
    assert curve["mean"][-1] == curve["low"][-1] == curve["high"][-1] == 0
    noise = summary["curves"]["cfcam"]["gradient_noise_ssim_curve"]
    assert noise["mean"] == pytest.approx([0.8, 0.7, 0.5, 0.3, 0.2], rel=1e-6)


def test_positions_of_a_curve_may_lack_values():
    rows = made_rows(4)
    for r in rows[:3]:
        r["gradient_noise_ssim_curve"] = [0.4, math.nan, 0.3, 0.2, 0.1]
    rows[3]["gradient_noise_ssim_curve"] = None
    curve = summarise(as_table(rows), COLUMNS)["curves"]["gradcam"]["gradient_noise_ssim_curve"]
    assert curve["n"] == [3, 2, 3, 3, 3]
    assert curve["mean"][1] == pytest.approx(0.7)


def test_blank_maps_are_a_column_of_their_own():
    rows = made_rows(10)
    for r in rows[:12:3]:
        r["blank"] = True
    found = summarise(as_table(rows), COLUMNS)
    assert found["methods"]["gradcam"]["blank"]["mean"] == pytest.approx(0.4)
    assert found["methods"]["cfcam"]["blank"] == {"mean": 0, "low": 0, "high": 0, "n": 10}
    assert found["paired"]["cfcam"]["blank"]["verdict"] == "better"


def test_failures_are_counted_by_kind_with_examples():
    rows = [failure(i) for i in range(5)] + [failure(9, "explain", "NaN", method="cfcam")]
    found = summarise(as_table([*made_rows(3), *rows]), COLUMNS)
    assert [(f["stage"], f["method"], f["count"], len(f["examples"])) for f in found["failures"]] == [
        ("decode", None, 5, 3),
        ("explain", "cfcam", 1, 1),
    ]
    assert found["failures"][0]["examples"][0] == {"sample_id": "bad/000.jpg", "message": "truncated"}
    assert found["failed"] == 6


def test_two_summaries_are_identical_and_the_rows_order_does_not_matter(summary: dict[str, Any]):
    rows = [*made_rows(60), failure(0), failure(1)]
    mixed = np.random.default_rng(0).permutation(len(rows))
    again = summarise(as_table([rows[i] for i in mixed]), COLUMNS, methods=METHODS)
    assert summarise(as_table(rows), COLUMNS) == summary
    for part in ("methods", "paired", "curves"):
        assert again[part] == summary[part]


def test_another_seed_draws_other_images(summary: dict[str, Any]):
    other = summarise(as_table(made_rows(60)), COLUMNS, seed=1)["methods"]["cfcam"]["average_drop"]
    first = summary["methods"]["cfcam"]["average_drop"]
    assert other["mean"] == first["mean"]
    assert other["low"] != first["low"]


def test_a_columns_interval_does_not_depend_on_the_columns_beside_it(summary: dict[str, Any]):
    alone = summarise(as_table(made_rows(60)), COLUMNS[2:3], methods=["cfcam"])
    assert alone["methods"]["cfcam"]["average_drop"] == summary["methods"]["cfcam"]["average_drop"]


def plain_numbers(value: Any) -> None:
    """Fails on what JSON does not know."""
    json.loads(json.dumps(value, allow_nan=False))


@pytest.mark.parametrize(("difference", "found"), [(2e-6, None), (2e-3, "worse")])
def test_rounding_is_no_verdict(difference: float, found: str | None):
    """Grad-CAM and HiResCAM are one map where the gradient is constant, and one may be ahead on every image."""
    added = {"gradcam": 0.0, "hirescam": difference}
    rows = [row(i, method, 0, deletion_black_auc=0.4 + added[method]) for i in range(20) for method in added]
    entry = summarise(as_table(rows), COLUMNS)["paired"]["hirescam"]["deletion_black_auc"]
    assert entry["low"] > 0
    assert entry["verdict"] == found


def test_one_image_has_means_and_no_intervals_or_verdicts():
    found = summarise(as_table(made_rows(1)), COLUMNS)
    entry = found["methods"]["cfcam"]["deletion_black_auc"]
    assert (entry["low"], entry["high"], entry["n"]) == (None, None, 1)
    assert entry["mean"] is not None
    assert {e["verdict"] for e in found["paired"]["random"].values()} == {None}
    plain_numbers(found)


@pytest.mark.parametrize("rows", [[], [failure(0), failure(1)]], ids=["no rows", "only failures"])
def test_nothing_explained(rows: list[dict[str, Any]]):
    found = summarise(as_table(rows), COLUMNS, methods=METHODS)
    assert found["images"] == 0
    assert found["failed"] == len(rows)
    assert list(found["methods"]) == list(METHODS)
    nothing = {"mean": None, "low": None, "high": None, "n": 0}
    assert all(entry == nothing for entries in found["methods"].values() for entry in entries.values())
    assert found["curves"]["cfcam"]["deletion_black_curve"]["mean"] == []
    plain_numbers(found)


def test_a_column_without_any_value_and_one_that_the_table_lacks():
    rows = made_rows(5)
    for r in rows:
        r["pointing"], r["average_drop"] = None, math.nan
    found = summarise(as_table(rows).drop_columns("edges_ssim"), COLUMNS)
    for name in ("pointing", "average_drop", "edges_ssim"):
        assert found["methods"]["cfcam"][name] == {"mean": None, "low": None, "high": None, "n": 0}
        assert found["paired"]["cfcam"][name]["verdict"] is None
    plain_numbers(found)


def test_a_method_that_failed_everywhere_is_listed_without_numbers():
    rows = made_rows(6, METHODS[:2]) + [failure(i, "explain", "no", method="random") for i in range(6)]
    found = summarise(as_table(rows), COLUMNS, methods=METHODS)
    assert found["methods"]["random"]["average_drop"]["n"] == 0
    assert found["paired"]["random"]["average_drop"]["difference"] is None
    assert found["paired"]["cfcam"]["average_drop"]["n"] == 6


def test_without_the_baseline_nothing_is_compared():
    found = summarise(as_table(made_rows(5, ("cfcam", "random"))), COLUMNS)
    assert (found["baseline"], found["paired"]) == (None, {})
    assert "▲" not in legend(found)


def test_two_rows_of_one_image_and_method_are_refused():
    rows = [*made_rows(2), row(1, "cfcam", 1)]
    with pytest.raises(
        StoreError, match=r"2 rows of 'photos/001.jpg' by cfcam, expected one; evaluate again"
    ):
        summarise(as_table(rows), COLUMNS)


def test_curves_of_different_lengths_are_refused():
    rows = made_rows(2)
    rows[0]["deletion_black_curve"] = [0.5, 0.1]
    with pytest.raises(StoreError, match=r"'deletion_black_curve' have 2 to 21 values, expected one length"):
        summarise(as_table(rows), COLUMNS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"level": 95}, "level of the intervals must lie between 0 and 1, got 95"),
        ({"resamples": 0}, "at least 1 resample, got 0"),
    ],
)
def test_impossible_arguments(arguments: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        summarise(as_table(made_rows(1)), COLUMNS, **arguments)


def test_arrow_types_that_a_table_may_have():
    """Large lists, fixed lists, float64 and integers are read as well."""
    table = as_table(made_rows(4))
    changes = {
        "deletion_black_curve": pa.large_list(pa.float64()),
        "gradient_noise_ssim_curve": pa.list_(pa.float32(), 5),
        "average_drop": pa.float64(),
    }
    other = table
    for name, kind in changes.items():
        other = other.set_column(
            other.column_names.index(name), name, pa.array(table[name].to_pylist(), kind)
        )
    assert summarise(other, COLUMNS)["curves"] == summarise(table, COLUMNS)["curves"]
    assert summarise(other, COLUMNS)["methods"] == summarise(table, COLUMNS)["methods"]
