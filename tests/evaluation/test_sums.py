"""Sums of an evaluation's rows: the same in whatever tables they come, and flat in memory."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cfcam_gpu.errors import ConfigError, StoreError
from cfcam_gpu.evaluation.summary import Summary, summarise
from cfcam_gpu.evaluation.sums import Sums
from tests.helpers.evaluation_tables import COLUMNS, METHODS, as_table, failure, made_rows, row

SCALARS = [column.name for column in COLUMNS if not column.curve]
CURVES = [column.name for column in COLUMNS if column.curve]


def close(found: Any, expected: Any) -> None:
    """The same content, numbers within one unit of the 7 digits that a summary holds."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            close(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            close(one, other)
    else:
        assert found == (pytest.approx(expected, rel=2e-7) if isinstance(expected, float) else expected)


def summary_of(*tables: pa.Table) -> Summary:
    return summarise(tables, COLUMNS, methods=METHODS, resamples=300)


def test_tables_and_their_order_do_not_matter():
    rows = made_rows(30) + [failure(i) for i in range(7)] + [failure(9, "explain", "NaN", method="cfcam")]
    for r in rows[:45]:
        r["pointing"] = r["gradient_noise_ssim_curve"] = None
    whole = summary_of(as_table(rows))
    assert whole["images"] == 30
    cuts = [as_table(rows[:3]), as_table(rows[3:60]), as_table(rows[60:94]), as_table(rows[94:])]
    close(summary_of(*cuts), whole)
    close(summary_of(*reversed(cuts)), whole)


def test_merged_sums_are_those_of_all_rows():
    rows = made_rows(20) + [failure(i) for i in range(5)]
    cuts = [rows[:9], [], rows[9:51], rows[51:]]

    def sums(some: list[dict[str, Any]]) -> Sums:
        result = Sums(METHODS, SCALARS, CURVES, "gradcam", resamples=200)
        result.add(as_table(some))
        return result

    whole, merged = sums(rows), sums(cuts[3])
    for cut in cuts[:3]:
        merged.merge(sums(cut))
    assert (merged.images, merged.failed) == (whole.images, whole.failed) == (20, 5)
    assert merged.failures() == whole.failures()
    pairs = [(merged.figures, whole.figures), (merged.differences, whole.differences)]
    pairs += [(merged.curves[name], whole.curves[name]) for name in CURVES]
    for found, expected in pairs:
        assert found is not None
        assert expected is not None
        ours, theirs = found.intervals(0.95), expected.intervals(0.95)
        for name in ("mean", "low", "high", "n"):
            np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-10, atol=1e-13)


def test_curves_of_other_lengths_in_another_table_are_refused():
    rows = [row(0, "cfcam", 1), row(1, "cfcam", 1, deletion_black_curve=[0.5, 0.1])]
    with pytest.raises(StoreError, match=r"'deletion_black_curve' have 2 to 21 values, expected one length"):
        summary_of(*(as_table([r]) for r in rows))


def test_several_tables_need_the_methods_names():
    with pytest.raises(ConfigError, match="name their methods"):
        summarise([as_table(made_rows(1))], COLUMNS)


MILLION = ("gradcam", "cfcam")


def made_tables(images: int, size: int = 2000) -> Iterator[pa.Table]:
    """Tables of two methods with a curve of 101 points, made as they are asked for; the mean differs by 0.01."""
    rng = np.random.default_rng(0)
    for start in range(0, images, size):
        ids = [f"photos/{i:07}.jpg" for i in range(start, start + size) for _ in MILLION]
        values = rng.standard_normal(2 * size) + np.tile([0, 0.01], size)
        curve = np.linspace(values, 0, 101, axis=1).astype(np.float32)
        yield pa.table(
            {
                "sample_id": ids,
                "status": ["ok"] * len(ids),
                "method": list(MILLION) * size,
                "blank": np.zeros(len(ids), bool),
                "average_drop": values.astype(np.float32),
                "deletion_black_curve": pa.FixedSizeListArray.from_arrays(curve.reshape(-1), 101),
            }
        )


@pytest.mark.slow
def test_many_images_need_no_more_memory_than_few():
    """200,000 images: their rows take 170 MB as float32. What is held at most grows by less than 1 MB."""

    def peak(images: int) -> tuple[int, Summary]:
        tracemalloc.start()
        summary = summarise(made_tables(images), [COLUMNS[2], COLUMNS[5]], methods=MILLION, resamples=500)
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return held, summary

    few, _ = peak(10_000)
    start = time.monotonic()
    many, summary = peak(200_000)
    seconds = time.monotonic() - start
    print(f"{few / 1e6:.1f} MB for 10,000 images, {many / 1e6:.1f} MB for 200,000, {seconds:.0f} s")
    assert many < few + 1_000_000
    assert summary["images"] == 200_000
    entry = summary["paired"]["cfcam"]["average_drop"]
    error = np.sqrt(2 / 200_000)  # of the difference of two independent means
    assert entry["difference"] == pytest.approx(0.01, abs=4 * error)
    assert (entry["high"] - entry["low"]) / 2 == pytest.approx(1.96 * error, rel=0.15)
