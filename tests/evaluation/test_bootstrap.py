"""Bootstrap intervals: right, repeatable, sensible where there are few values, and sums that can be added up."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from cfcam_gpu.evaluation.bootstrap import Bootstrap, Floats, Intervals, draw_counts


def added(values: Floats, seed: int, resamples: int, *rows: slice | list[int]) -> Bootstrap:
    """The sums of the images (images, columns), called by their positions; in these pieces, or all at once."""
    result = Bootstrap(values.shape[1:], resamples)
    for piece in rows or (slice(None),):
        ids = [f"photos/{i}.jpg" for i in np.arange(len(values))[piece]]
        result.add(values[piece], draw_counts(ids, seed, resamples))
    return result


def bootstrap(values: Floats, seed: int, resamples: int, level: float) -> Intervals:
    return added(values, seed, resamples).intervals(level)


def assert_same(found: Intervals, expected: Intervals) -> None:
    for name in ("mean", "low", "high", "n"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-12, atol=1e-14)


def test_intervals_agree_with_scipys():
    x = np.random.default_rng(1).gamma(2.0, size=(80, 1))
    ours = bootstrap(x, seed=0, resamples=20_000, level=0.9)
    theirs = stats.bootstrap(
        (x[:, 0],),
        np.mean,
        n_resamples=20_000,
        confidence_level=0.9,
        method="percentile",
        rng=np.random.default_rng(2),
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.mean[0] == pytest.approx(x.mean())
    assert ours.low[0] == pytest.approx(theirs.low, abs=0.03 * width)
    assert ours.high[0] == pytest.approx(theirs.high, abs=0.03 * width)


def test_intervals_hold_the_true_mean_about_as_often_as_they_say():
    """One column for each of 400 experiments of 50 images whose true mean is 0."""
    x = np.random.default_rng(3).standard_normal((50, 400))
    found = bootstrap(x, seed=0, resamples=1000, level=0.9)
    assert 0.84 < np.mean((found.low <= 0) & (found.high >= 0)) < 0.95


def test_pieces_order_and_merging_do_not_matter():
    """With values that are absent in some images of some columns, so that columns part at different pieces."""
    rng = np.random.default_rng(4)
    x = rng.standard_normal((97, 6))
    x[rng.random((97, 6)) < 0.2] = np.nan
    x[:40, 1] = np.nan
    x[:, 2:4][np.isnan(x[:, [2]])[:, 0]] = np.nan
    whole = added(x, 0, 300).intervals(0.9)
    order = rng.permutation(97).tolist()
    assert_same(added(x, 0, 300, order[:1], order[1:60], order[60:]).intervals(0.9), whole)
    merged = added(x, 0, 300, slice(50, 97))
    merged.merge(added(x, 0, 300, slice(0, 20)))
    merged.merge(added(x, 0, 300, slice(20, 50)))
    merged.merge(Bootstrap((6,), 300))
    assert_same(merged.intervals(0.9), whole)


def test_draws_are_poisson_and_those_of_different_images_and_resamples_are_independent():
    draws = draw_counts([str(i) for i in range(400)], 0, 2000).astype(float)
    share = np.bincount(draws.astype(int).ravel(), minlength=10)[:6] / draws.size
    np.testing.assert_allclose(share, stats.poisson(1).pmf(range(6)), atol=2e-3)
    for table in (draws, draws.T[:400]):
        correlations = np.corrcoef(table)[np.triu_indices(400, 1)]
        assert abs(correlations.mean()) < 1e-3
        assert correlations.std() == pytest.approx(table.shape[1] ** -0.5, rel=0.03)


def test_intervals_are_as_wide_as_those_of_drawing_with_replacement():
    """200 columns of 60 skewed values, so that chance cancels: the widths differ by the share 1/(2n)."""
    x = np.random.default_rng(5).gamma(2.0, size=(60, 200))
    ours = bootstrap(x, 0, 2000, 0.95)
    counts = np.random.default_rng(6).multinomial(60, [1 / 60] * 60, 2000)
    low, high = np.quantile(counts @ x / 60, [0.025, 0.975], axis=0)
    assert np.mean((ours.high - ours.low) / (high - low)) == pytest.approx(1 + 1 / 120, abs=0.01)
    assert np.mean((ours.low - low) / (high - low)) == pytest.approx(0, abs=0.01)


NUMBERS = st.one_of(st.just(math.nan), st.floats(-1e3, 1e3))


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.float64, st.tuples(st.integers(0, 6), st.integers(1, 4)), elements=NUMBERS))
def test_missing_values_are_left_out_column_by_column(values: np.ndarray):
    """Each column gives what its own values give alone, and the interval lies within them."""
    found = bootstrap(values, 0, 50, 0.95)
    for i, column in enumerate(values.T):
        there = column[~np.isnan(column)]
        assert found.n[i] == len(there)
        assert np.isnan(found.mean[i]) == (len(there) == 0)
        assert np.isnan(found.low[i]) == np.isnan(found.high[i]) == (len(there) < 2)
        if len(there) > 1:
            alone = added(values[:, [i]], 0, 50, np.flatnonzero(~np.isnan(column)).tolist()).intervals(0.95)
            here = [found.mean[i], found.low[i], found.high[i]]
            np.testing.assert_allclose(here, [alone.mean[0], alone.low[0], alone.high[0]], atol=1e-9)
            assert there.min() - 1e-9 <= found.low[i] <= found.high[i] <= there.max() + 1e-9
