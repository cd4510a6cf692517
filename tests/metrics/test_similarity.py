"""SSIM, squared error and correlation of maps, against scikit-image and NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cfcam_gpu.metrics.similarity import correlation, squared_error, ssim
from tests.helpers.metric_cases import pictures


@pytest.mark.parametrize("size", [(11, 11), (24, 31), (64, 40)])
def test_ssim_is_that_of_scikit_image(size):
    structural_similarity = pytest.importorskip("skimage.metrics", reason="compares with scikit-image")
    rng = np.random.default_rng(1)
    a = rng.random((4, *size), dtype=np.float32)
    b = np.clip(a + rng.normal(0, 0.2, a.shape), 0, 1).astype(np.float32)
    b[1] = 0
    expected = [
        structural_similarity.structural_similarity(
            x, y, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for x, y in zip(a.astype(np.float64), b.astype(np.float64), strict=True)
    ]
    found = ssim(torch.from_numpy(a), torch.from_numpy(b))
    torch.testing.assert_close(found.double(), torch.tensor(expected).double(), atol=2e-5, rtol=0)


def test_ssim_of_equal_and_blank_maps():
    maps = torch.stack([pictures(1)[0, 0], torch.zeros(16, 16)])
    torch.testing.assert_close(ssim(maps, maps), torch.ones(2))
    assert ssim(maps[:1], maps[1:]) < 0.1


def test_ssim_is_undefined_for_maps_smaller_than_its_window():
    maps = torch.rand(2, 10, 30)
    assert ssim(maps, maps).isnan().all()


def test_squared_error_by_hand():
    a, b = torch.tensor([[[0.0, 1.0]], [[0.5, 0.5]]]), torch.tensor([[[1.0, 1.0]], [[0.5, 0.0]]])
    torch.testing.assert_close(squared_error(a, b), torch.tensor([0.5, 0.125]))


@given(st.integers(0, 1000), st.floats(0.01, 100), st.floats(-5, 5))
@settings(max_examples=30, deadline=None)
def test_correlation_is_numpys_and_ignores_scale_and_offset(seed, scale, offset):
    a, b = torch.rand(2, 3, 7, 9, generator=torch.Generator().manual_seed(seed)).unbind(0)
    expected = [np.corrcoef(x.flatten(), y.flatten())[0, 1] for x, y in zip(a, b, strict=True)]
    torch.testing.assert_close(correlation(a, b).double(), torch.tensor(expected).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(correlation(a, scale * b + offset), correlation(a, b), atol=1e-3, rtol=0)
    torch.testing.assert_close(correlation(a, -b), -correlation(a, b), atol=1e-6, rtol=0)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_correlation_with_a_constant_map_is_undefined(value):
    varied, constant = torch.rand(1, 50, 50), torch.full((1, 50, 50), value)
    assert correlation(varied, constant).isnan().all()
    assert correlation(constant, varied).isnan().all()
