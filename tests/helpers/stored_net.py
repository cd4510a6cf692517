"""The model and the photos of the runs stored in `tests/golden/stored_runs`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn


class StoredNet(nn.Module):
    """Weights written out, so that no change of an initialisation changes their hash."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU()
        )
        self.head = nn.Linear(16, 4)
        with torch.no_grad():
            for i, parameter in enumerate(self.parameters()):
                steps = torch.arange(parameter.numel(), dtype=torch.float64)
                parameter.copy_(torch.sin(steps * (1.7 + i)).reshape(parameter.shape) * 0.4)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images).mean((2, 3)))
        return logits


def write_photos(folder: Path) -> None:
    """p0.png to p5.png, 24×24; p3.png holds no picture."""
    folder.mkdir()
    y, x, c = np.mgrid[:24, :24, :3]
    for i in range(6):
        pixels = (np.sin(y * (i + 1) / 5) + np.cos(x * (c + 1) / 4) + 2) * 63
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"p{i}.png")
    (folder / "p3.png").write_bytes(b"no picture")
