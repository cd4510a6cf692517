"""Bootstrap intervals: right, repeatable, and sensible where there are few values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from cfcam_gpu.evaluation.bootstrap import bootstrap


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


def test_many_draws_come_in_parts(monkeypatch: pytest.MonkeyPatch):
    x = np.random.default_rng(4).standard_normal((30, 2))
    whole = bootstrap(x, 0, 200, 0.95)
    monkeypatch.setattr("cfcam_gpu.evaluation.bootstrap._MOST_DRAWS", 70)
    np.testing.assert_allclose(bootstrap(x, 0, 200, 0.95).low, whole.low)


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
            alone = bootstrap(there[:, None], 0, 50, 0.95)
            here = [found.mean[i], found.low[i], found.high[i]]
            np.testing.assert_allclose(here, [alone.mean[0], alone.low[0], alone.high[0]], atol=1e-9)
            assert there.min() - 1e-9 <= found.low[i] <= found.high[i] <= there.max() + 1e-9
