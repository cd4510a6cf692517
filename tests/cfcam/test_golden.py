"""Preset `upstream` reproduces the published code on the golden files, with tiny and strong gradients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cfcam_gpu import CFCAMConfig
from tests.helpers.features import FAST, REFERENCE
from tests.helpers.tolerances import EPS, MAP

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("*.npz"))


def test_golden_files_cover_both_gradient_strengths():
    assert len(GOLDEN) == 8
    strength = [float(np.abs(np.load(path)["G"]).max()) for path in GOLDEN]
    assert min(strength) < 0.02
    assert max(strength) > 1


@pytest.mark.parametrize("run", [*FAST, REFERENCE], ids=str)
@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_upstream_preset_reproduces_the_published_code(path, run):
    golden = np.load(path)
    activations, gradients = (torch.from_numpy(golden[name])[None] for name in "AG")
    result = run.explain(activations, gradients, golden["cam"].shape, CFCAMConfig.preset("upstream"))
    np.testing.assert_array_equal(result.labels[0].numpy(), golden["labels"])
    assert int(result.n_clusters[0]) == int(golden["n_clusters"])
    np.testing.assert_allclose(float(result.eps[0]), float(golden["eps"]), rtol=EPS)
    np.testing.assert_allclose(result.heatmap[0].numpy(), golden["cam"], rtol=0, atol=MAP)
