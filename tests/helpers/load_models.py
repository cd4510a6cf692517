"""Loading models in tests: the message of a refusal, a filled download folder, a file that would run code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from cfcam_gpu.errors import ModelError
from cfcam_gpu.images.preprocess import Preprocess
from cfcam_gpu.models import load_model

RESNET = "torchvision:resnet18"

#: What a message about weights that cannot be downloaded suggests.
OTHERS = "pass --weights FILE, or use --model efficientnet-lite0, which needs no download"


def problem(*arguments: Any, **options: Any) -> str:
    """The message of the ModelError that load_model raises: always one line."""
    with pytest.raises(ModelError) as caught:
        load_model(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def cache_download(hub: Path, name: str, content: object) -> None:
    hub.mkdir()
    torch.save(content, hub / name)


class Trap:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def levels_apart(ours: Preprocess, theirs: Any, image: Image.Image) -> float:
    """Largest difference of two preprocessings, in levels of 8 bits."""
    std = torch.tensor(ours.std)[:, None, None]
    return float(((ours(image) - theirs(image)) * std * 255).abs().max())
