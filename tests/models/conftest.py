"""A small trained model, its weights file, an empty download folder and a user's project."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn


@pytest.fixture(scope="module")
def resnet2() -> nn.Module:
    """A trained two-class ResNet-18 stands for this one, whose weights are recognisable."""
    torch.manual_seed(3)
    return torchvision.models.resnet18(num_classes=2).eval()


@pytest.fixture(scope="module")
def checkpoint(resnet2: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "best_model.pth"
    torch.save(resnet2.state_dict(), path)
    return path


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty download folder of torch.hub; a test that would reach the network fails."""

    def forbidden(*_arguments: object, **_options: object) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", forbidden)
    return tmp_path / "checkpoints"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The user's working folder, for py: specifications. Modules and path are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["/somewhere/else", *sys.path])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
