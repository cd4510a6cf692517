"""Scores that are not finite, and the noise of `random`."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cfcam_gpu import CFCAM
from tests.helpers.method_cases import Deeper, explain


@pytest.mark.parametrize("method", sorted({"scorecam", "ablationcam"}))
def test_scores_that_are_not_finite_are_flagged(images, method):
    """Infinity for any image but the clean ones."""

    class Fragile(Deeper):
        fine = True

        def forward(self, given: Tensor) -> Tensor:
            logits = super().forward(given)
            return logits if self.fine else logits + torch.inf

    fragile = Fragile().eval()
    with CFCAM(fragile, "conv:relu", method=method, on_invalid="flag") as cam:
        features = cam.features(images, 0)
        fragile.fine = False
        found = cam.explain(features)
    assert (found.status == 5).all()
    assert "modified images" in str(found.problems[0])
    assert not found.heatmap.any()


def test_random_maps_are_of_the_image_alone(net, images):
    found = explain(net, "random", images).grid
    swapped = explain(net, "random", images[[2, 0]]).grid
    assert torch.equal(swapped, found[[2, 0]])
    changed = images.clone()
    changed[0, 0, 0, 0] += 1e-3
    assert not torch.equal(explain(net, "random", changed).grid[0], found[0])
    assert len({float(grid[0, 0]) for grid in found}) == len(found)
    assert 0.4 < float(found.mean()) < 0.6
