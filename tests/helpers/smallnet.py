"""A small classifier, pictures for it, and runs over them, for tests of dataset runs."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from cfcam_gpu.dataset import open_results
from cfcam_gpu.dataset.execution.observer import Observer
from cfcam_gpu.dataset.run import explain_dataset
from cfcam_gpu.dataset.run_summary import RunSummary
from cfcam_gpu.dataset.store.schema import Row
from cfcam_gpu.images.preprocess import Preprocess
from cfcam_gpu.models import LoadedModel

#: A picture of this colour makes the network put out NaN.
POISON = (255, 0, 255)

#: A module for `py:slownet:make`, of which a pass takes a fifth of a second at least.
SLOW_FACTORY = """
import time
import torch
from torch import nn

def make():
    torch.manual_seed(5)
    net = nn.Sequential(
        nn.Conv2d(3, 24, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 3)
    )
    net.register_forward_pre_hook(lambda *_: time.sleep(0.2))
    return net
"""

PLAIN = Preprocess((32, 32), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


class Net(nn.Module):
    """Three classes; NaN activations for an image that is all `POISON`."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.stem = nn.Identity()  # maps of more than twice the conv's resolution
            self.conv = nn.Conv2d(3, 24, 3, stride=4, padding=1)
            self.head = nn.Linear(24, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        poison = torch.tensor(POISON, device=images.device)[None, :, None, None] / 255
        poisoned = ((images - poison).abs() < 1e-3).flatten(1).all(1)
        features = self.conv(self.stem(images.masked_fill(poisoned[:, None, None, None], torch.nan))).relu()
        logits: torch.Tensor = self.head(features.mean((2, 3)))
        return logits


def make_loaded(preprocess: Preprocess = PLAIN) -> LoadedModel:
    """The network with the classes ant, bee and cat."""
    return LoadedModel(Net().eval(), preprocess, ("ant", "bee", "cat"), "test", "random")


def photo(seed: int, size: tuple[int, int] = (60, 45)) -> Image.Image:
    """An image of smooth random colours; `size`: (width, height)."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def save(folder: Path, **files: Image.Image | bytes) -> Path:
    """Saves pictures as NAME.png, or bytes as they are; the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / f"{name}.png"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content.save(path)
    return folder


def run(inputs: str | Path | Collection[Any], out: str | Path, **settings: Any) -> RunSummary:
    """A run of the small network without worker processes, unless the settings say otherwise."""
    given = [str(inputs)] if isinstance(inputs, (str, Path)) else inputs
    settings = {"workers": 0, "device": "cpu", "layer": "conv:relu", **settings}
    model = settings.pop("model", None) or make_loaded()
    return explain_dataset(given, out, model, **settings)


def rows(out: str | Path) -> list[dict[str, Any]]:
    """The rows of a run, in order."""
    return [dict(row) for row in open_results(out).rows()]


class Recorder(Observer):
    """Remembers the ids of finished samples, and the notes.

    Args:
        after: number of rows after which `action` is called, once.
        action: None: a KeyboardInterrupt is raised.
    """

    def __init__(self, after: int | None = None, action: Callable[[], None] | None = None) -> None:
        self.ids: list[str] = []
        self.notes: list[str] = []
        self.after, self.action = after, action

    def row(self, row: Row) -> None:
        self.ids.append(row["sample_id"])
        if len(self.ids) == self.after:
            if self.action is None:
                raise KeyboardInterrupt
            self.action()

    def note(self, line: str) -> None:
        self.notes.append(line)
