"""Inputs of dataset runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.helpers.smallnet import POISON, photo, save


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Six inputs, of which b and f cannot be decoded and d cannot be explained."""
    poison = Image.new("RGB", (9, 9), POISON)
    return save(tmp_path / "in", a=photo(1), b=b"no image", c=photo(2), d=poison, e=photo(3), f=b"")
