"""The published steps give the maps of the published code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.published import published_steps
from cfcam_gpu import CFCAM, CFCAMConfig
from tests.helpers.small_benches import Tiny
from tests.helpers.tolerances import MAP

pytestmark = [
    pytest.mark.usefixtures("tiny"),
    # The published code causes both warnings.
    pytest.mark.filterwarnings("ignore:Full backward hook is firing"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
]


class Golden(nn.Module):
    """Puts out the golden file's activations and has its gradients."""

    def __init__(self, activations: np.ndarray, gradients: np.ndarray) -> None:
        super().__init__()
        self.activations = nn.Parameter(torch.from_numpy(activations)[None])
        self.gradients = torch.from_numpy(gradients)[None]
        self.layer4 = nn.Identity()

    def forward(self, _images: Tensor) -> Tensor:
        score = (self.layer4(self.activations) * self.gradients).sum()
        return torch.stack([score, score.detach() - 1])[None]


@pytest.mark.parametrize("name", ["blobs4", "blobs6_nonsquare", "photo_coffee_block", "tiny"])
def test_the_published_steps_give_the_published_codes_maps(name):
    golden = np.load(Path(__file__).parents[1] / "golden" / f"{name}.npz")
    model = Golden(golden["A"], golden["G"])
    heatmap = published_steps(model, model.layer4, torch.zeros(1, 3, *golden["cam"].shape))
    np.testing.assert_allclose(heatmap, golden["cam"], rtol=0, atol=MAP)


def test_the_published_steps_give_the_upstream_presets_map():
    torch.manual_seed(0)
    model, image = Tiny().eval(), torch.randn(1, 3, 16, 16)
    ours = CFCAM(model, "layer4", CFCAMConfig.preset("upstream"))(image).heatmap[0]
    np.testing.assert_allclose(published_steps(model, model.layer4, image), ours.numpy(), rtol=0, atol=MAP)
