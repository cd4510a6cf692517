"""`cfcam explain` of a small model, and what it wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.helpers.command import Outcome, cfcam, parsed

FACTORY = """
import torch
from torch import nn

def make(num_classes=3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return nn.Sequential(
            nn.Conv2d(3, 24, 3, stride=4), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, num_classes),
        )
"""
TINY = ("--model", "py:tinynet:make", "--size", "32", "--class-names", "names.txt", "--device", "cpu")


#: Files of a run that `files` leaves out.
STORE = {"run.json", "plan.parquet"}


def explain(*arguments: str) -> Outcome:
    """Of a repeated option the last one counts: `arguments` replace the defaults here."""
    return cfcam("explain", "--out", "out", *TINY, *arguments)


def explain_json(*arguments: str) -> dict[str, Any]:
    content: dict[str, Any] = parsed(explain(*arguments, "--json").out)
    return content


def files(folder: str | Path) -> list[str]:
    """The files below a folder, without a run's own."""
    paths = (path.relative_to(folder) for path in Path(folder).rglob("*") if path.is_file())
    return sorted(
        str(path) for path in paths if path.name not in STORE and path.parts[0] not in (".cfcam", "shards")
    )


def pixels(path: str | Path) -> np.ndarray:
    return np.asarray(Image.open(path))
