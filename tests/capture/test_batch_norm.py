"""A single image's gradient through a batch normalisation whose output becomes tokens."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cfcam_gpu import CFCAM


class Tokens(nn.Module):
    """Maps that are normalised, then read as tokens by a head of their places."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 4, stride=4)
        self.norm = nn.BatchNorm2d(6)
        self.activation = activation
        self.mix = nn.Linear(6, 6)
        self.token = nn.Parameter(torch.randn(1, 1, 6))
        self.head = nn.Linear(6 * 21, 4)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.activation(self.norm(self.conv(images)))
        tokens = maps.view(len(maps), 6, 20).permute(0, 2, 1)
        tokens = torch.cat([self.token.expand(len(maps), -1, -1), tokens], dim=1)
        return self.head(self.mix(tokens).flatten(1))


@pytest.mark.parametrize("activation", [nn.Identity(), nn.ReLU(), nn.ReLU(inplace=True)])
def test_a_single_image_is_explained_as_in_a_batch(activation):
    torch.manual_seed(0)
    model = Tokens(activation).eval()
    assert model.norm.running_var is not None
    model.norm.running_var.uniform_(0.5, 2)
    images = torch.randn(2, 3, 16, 20)
    cam = CFCAM(model, "conv", method="hirescam", on_invalid="flag")
    together = cam.features(images, targets=1).gradients
    single = torch.cat([cam.features(image[None], targets=1).gradients for image in images])
    torch.testing.assert_close(single, together)
    # Of one image, by the chain rule written out.
    weight = model.head.weight[1].view(21, 6)[1:] @ model.mix.weight
    maps = model.norm(model.conv(images[:1]))
    is_open = (maps > 0) | isinstance(activation, nn.Identity)
    scale = model.norm.weight / (model.norm.running_var + model.norm.eps).sqrt()
    expected = weight.T.view(1, 6, 4, 5) * is_open * scale[:, None, None]
    torch.testing.assert_close(single[:1, 0], expected.detach())
