"""The order of the pixels, against sorting, and the blurred baseline, against SciPy."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter1d

from cfcam_gpu.metrics.masking import blurred, ranks
from tests.helpers.metric_cases import pictures


@given(st.lists(st.integers(0, 3), min_size=1, max_size=24))
def test_ranks_are_a_stable_order(values: list[int]):
    """Every place once, higher values first, equal values in reading order."""
    places = ranks(torch.tensor(values).float()[None, None])[0, 0].tolist()
    assert [places.index(k) for k in range(len(values))] == sorted(
        range(len(values)), key=lambda i: (-values[i], i)
    )


def test_blurred_baseline_is_the_gaussian_of_rise():
    """SciPy's filter of the same window of 11 pixels and standard deviation 5, on an image smaller than two windows."""
    images = pictures(2, 14)
    expected = images.numpy()
    for axis in (2, 3):
        expected = gaussian_filter1d(expected, 5, axis=axis, mode="nearest", radius=5)
    torch.testing.assert_close(blurred(images), torch.from_numpy(expected), atol=1e-6, rtol=0)
