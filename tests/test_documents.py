"""The Python blocks of the documents run as they stand, one after the other, in a folder with photos."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from cfcam_gpu.models import LoadedModel

ROOT = Path(__file__).parents[1]
# The README has a test of its own.
DOCUMENTS = [ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(path: Path) -> Iterator[str]:
    """The Python blocks, padded so that a traceback shows the document's own line numbers."""
    text = path.read_text()
    for match in BLOCK.finditer(text):
        yield "\n" * text.count("\n", 0, match.start(1)) + match[1]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_the_python_blocks_run(path, tmp_path, monkeypatch, photos: list[Image.Image], lite0: LoadedModel):
    (tmp_path / "train").mkdir()
    for name, photo in zip(("cat", "espresso"), photos, strict=False):
        photo.save(tmp_path / "train" / f"{name}.jpg")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {
        "__name__": "__document__",
        "images": torch.stack([lite0.preprocess(photo) for photo in photos[:2]]),
    }
    for code in blocks(path):
        exec(compile(code, str(path), "exec", dont_inherit=True), namespace)


def test_there_are_python_blocks():
    assert sum(len(list(blocks(path))) for path in DOCUMENTS) >= 8
