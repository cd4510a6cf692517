"""Overlays take pictures as people hold them, and refuse what is no picture by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cfcam_gpu import ConfigError, overlay
from cfcam_gpu.images import draw_overlay, fit_heatmap

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
HEATMAP = np.random.default_rng(1).random((3, 5), np.float32)
EXPECTED = draw_overlay(PIXELS, fit_heatmap(HEATMAP, (0, 0, 8, 6), 8, 6), "jet", 0.3)

HELD = {
    "PIL": Image.fromarray(PIXELS),
    "uint8": PIXELS,
    "float32": PIXELS / np.float32(255),
    "float64": PIXELS / 255.0,
    "channels first": PIXELS.transpose(2, 0, 1),
    "tensor": torch.from_numpy(PIXELS.copy()),
    "float tensor": torch.from_numpy(PIXELS.copy()).permute(2, 0, 1) / 255,
    "with a graph": (torch.from_numpy(PIXELS.copy()).permute(2, 0, 1) / 255).requires_grad_(),
    "RGBA": np.dstack([PIXELS, np.full((6, 8), 7, np.uint8)]),
    "CMYK as it looks": Image.fromarray(PIXELS).convert("CMYK"),
    "PIL RGBA": Image.fromarray(np.dstack([PIXELS, np.full((6, 8), 7, np.uint8)])),
}


@pytest.mark.parametrize("held", HELD)
@pytest.mark.parametrize("heatmap", [HEATMAP, torch.from_numpy(HEATMAP), torch.from_numpy(HEATMAP)[None]])
def test_every_way_to_hold_a_picture_gives_the_same_overlay(held: str, heatmap: Any) -> None:
    np.testing.assert_array_equal(overlay(HELD[held], heatmap, "jet", 0.3), EXPECTED)


@pytest.mark.parametrize(
    "gray", [PIXELS[..., 0], PIXELS[..., :1], PIXELS[None, ..., 0], Image.fromarray(PIXELS[..., 0])]
)
def test_gray_is_three_equal_channels(gray: Any) -> None:
    np.testing.assert_array_equal(overlay(gray, HEATMAP), overlay(np.dstack([PIXELS[..., 0]] * 3), HEATMAP))


@pytest.mark.parametrize(
    ("image", "heatmap", "sentence"),
    [
        (np.zeros((2, 6, 8, 3), np.uint8), HEATMAP, r"got shape \(2, 6, 8, 3\); pass one image at a time"),
        (np.zeros((6, 8, 2), np.uint8), HEATMAP, "with 1, 3 or 4 channels"),
        (PIXELS.astype(np.int32), HEATMAP, r"must be uint8, or floating-point in \[0, 1\], got int32"),
        (
            Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257),
            HEATMAP,
            "got uint16; divide it by its largest",
        ),
        ("cat.jpg", HEATMAP, r"got the path 'cat.jpg'; pass PIL.Image.open\(path\)"),
        (PIXELS.astype(np.float32), HEATMAP, r"values from 0 to 249; divide by 255"),
        (PIXELS / 255.0 - 0.5, HEATMAP, "undo the normalisation"),
        (PIXELS, HEATMAP * 2, r"heatmap must lie in \[0, 1\]"),
        (PIXELS, np.zeros((2, 3, 5), np.float32), "pass one map at a time"),
    ],
)
def test_what_is_no_picture_is_refused(image: Any, heatmap: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        overlay(image, heatmap)
