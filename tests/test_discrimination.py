"""Maps must depend on the class asked for; the published code's do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from cfcam_gpu import CFCAM, CFCAMConfig

CAT, ESPRESSO, MOPED, PLATFORM = 285, 967, 665, 540


@pytest.fixture(scope="module")
def correlations(lite0, photo_batch):
    """Mean over photos of the correlation of the maps of the likeliest and the least likely class, by preset."""
    by_preset = {}
    logits = lite0.model(photo_batch).detach()
    targets = torch.stack([logits.argmax(1), logits.argmin(1)], dim=1)
    for preset in ("default", "upstream"):
        heatmaps = CFCAM(lite0.model, config=CFCAMConfig.preset(preset))(photo_batch, targets).heatmap
        by_preset[preset] = np.array([np.corrcoef(pair.flatten(1).numpy())[0, 1] for pair in heatmaps])
        print(f"{preset}: mean {by_preset[preset].mean():.4f}, {np.round(by_preset[preset], 4).tolist()}")
    return by_preset


def test_maps_of_the_likeliest_and_the_least_likely_class_differ(correlations):
    assert correlations["default"].mean() < 0.5


def test_the_published_weighting_does_not_discriminate(correlations):
    """The reason why `upstream` is not the default; if this fails the README's claim is wrong."""
    assert correlations["upstream"].min() > 0.999


def square(photo: Image.Image) -> Image.Image:
    side = min(photo.size)
    left, top = (photo.width - side) // 2, (photo.height - side) // 2
    return photo.crop((left, top, left + side, top + side)).resize((112, 112))


@pytest.mark.parametrize(
    ("left", "right"), [((0, CAT), (1, ESPRESSO)), ((1, ESPRESSO), (2, MOPED)), ((3, PLATFORM), (0, CAT))]
)
def test_the_map_follows_the_class_asked_for_on_a_composite(lite0, photos, left, right):
    canvas = Image.new("RGB", (224, 112))
    canvas.paste(square(photos[left[0]]), (0, 0))
    canvas.paste(square(photos[right[0]]), (112, 0))
    canvas = canvas.resize((448, 224))
    tensor = lite0.preprocess(canvas)[None]
    heatmaps = CFCAM(lite0.model)(tensor, torch.tensor([[left[1], right[1]]])).heatmap[0]
    half = heatmaps.shape[-1] // 2
    shares = heatmaps[..., :half].sum((1, 2)) / heatmaps.sum((1, 2))
    print(f"share of the left half: asked for left {shares[0]:.2f}, for right {shares[1]:.2f}")
    assert shares[0] > 0.7
    assert shares[1] < 0.3
