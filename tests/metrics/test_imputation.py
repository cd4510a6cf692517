"""Filled pixels, against an exact solution of the same equations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import coo_array, diags_array
from scipy.sparse.linalg import spsolve
from torch import Tensor

from cfcam_gpu.metrics import imputation
from cfcam_gpu.metrics.imputation import impute, neighbour_sum
from cfcam_gpu.metrics.masking import ranks
from tests.helpers.metric_cases import pictures
from tests.helpers.tolerances import FILLED


def test_direct_neighbours_weigh_a_sixth_and_diagonal_ones_a_twelfth():
    """The weights of Rong et al. 2022. The eight of them add up to 1, so a filled pixel is a mean."""
    pixel = torch.zeros(5, 5)
    pixel[2, 2] = 1
    weights = neighbour_sum(pixel)
    expected = torch.tensor([[1 / 12, 1 / 6, 1 / 12], [1 / 6, 0, 1 / 6], [1 / 12, 1 / 6, 1 / 12]])
    torch.testing.assert_close(weights[1:4, 1:4], expected)
    assert weights.sum() == pytest.approx(1)
    assert weights.count_nonzero() == 8


def test_the_ratio_of_the_weights_decides_a_filled_pixel():
    """In one missing pixel the direct neighbours count twice: (2·1 + 1·0) / 3 with 1 beside and 0 across."""
    image = torch.tensor([[0.0, 1.0, 0.0], [1.0, 9.0, 1.0], [0.0, 1.0, 0.0]])
    missing = torch.zeros(1, 3, 3, dtype=torch.bool)
    missing[0, 1, 1] = True
    assert impute(image[None, None], missing)[0, 0, 1, 1].item() == pytest.approx(2 / 3)


def exactly_filled(image: Tensor, missing: Tensor) -> Tensor:
    """The same equations for (C,H,W) by SciPy's sparse solver in float64."""
    h, w = missing.shape
    pixel = np.arange(h * w).reshape(h, w)
    rows, columns, weights = [], [], []
    for dy, dx in [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]:
        here = pixel[max(0, -dy) : h - max(0, dy), max(0, -dx) : w - max(0, dx)].ravel()
        rows.append(here)
        columns.append(here + dy * w + dx)
        weights.append(np.full(len(here), 1 / 6 if dy * dx == 0 else 1 / 12))
    places = np.concatenate(rows), np.concatenate(columns)
    matrix = coo_array((np.concatenate(weights), places), shape=(h * w, h * w)).tocsr()
    hole, values = missing.flatten().numpy(), image.flatten(1).double().numpy().copy()
    values[:, hole] = 0
    system = diags_array(matrix.sum(1)[hole]) - matrix[hole][:, hole]
    values[:, hole] = spsolve(system.tocsc(), matrix[hole] @ values.T).T
    return torch.from_numpy(values.reshape(image.shape)).float()


def blob(h: int, w: int, share: float, seed: int) -> Tensor:
    """A smooth hole of this share of the pixels, (h,w) bool."""
    coarse = torch.rand(1, 1, 5, 5, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, (h, w), mode="bicubic")
    return ranks(smooth[0])[0] < round(h * w * share)


@pytest.mark.parametrize(
    ("h", "w", "shares"),
    [
        (5, 9, (0.2, 0.8, 0.95)),
        (61, 47, (0.2, 0.8, 0.95)),
        pytest.param(224, 224, (0.8,), marks=pytest.mark.slow),
    ],
)
def test_filling_solves_the_equations(h: int, w: int, shares: tuple[float, ...]):
    """Against an exact solution, for holes of several sizes at once, beside a speckle; also all and nothing."""
    speckle = torch.rand(h, w, generator=torch.Generator().manual_seed(0)) < 0.5
    missing = torch.stack([*(blob(h, w, share, 3) for share in shares), speckle])
    images = pictures(len(missing), max(h, w))[:, :, :h, :w]
    filled = impute(images, missing)
    for image, hole, result in zip(images, missing, filled, strict=True):
        torch.testing.assert_close(result, exactly_filled(image, hole), atol=FILLED, rtol=0)
        assert torch.equal(result[:, ~hole], image[:, ~hole])
    none = torch.zeros(1, h, w, dtype=torch.bool)
    assert torch.equal(impute(images[:1], none), images[:1])
    assert (impute(images[:1], ~none) == 0).all()


def test_what_was_in_a_hole_does_not_matter():
    images, missing = pictures(1), blob(16, 16, 0.5, 0)[None]
    poisoned = images.masked_fill(missing[:, None], torch.nan)
    assert torch.equal(impute(images, missing), impute(poisoned, missing))


def test_filling_that_cannot_converge_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(imputation, "_MAX_ITERATIONS", 1)
    with pytest.raises(RuntimeError, match="could not be filled in to 1e-06 in 1 iterations"):
        impute(pictures(1), blob(16, 16, 0.5, 0)[None])
