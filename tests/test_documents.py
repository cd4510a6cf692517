"""The Python blocks of the documents run as they stand, one after the other, in a folder with photos."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from cfcam_gpu.methods import METHODS
from cfcam_gpu.metrics import METRICS
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


def test_the_page_of_evaluations_lists_every_method_and_metric():
    """Names that are in no table of the package are found as well as names that the page lacks."""
    page = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    sentence = page.partition("take the same names:")[2].partition(".")[0]
    assert sorted(re.findall(r"`([^`]+)`", sentence)) == sorted(METHODS)
    rows = page.partition("| metrics |")[2].partition("\n\n")[0].splitlines()[2:]
    named = [name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])]
    assert sorted(named) == sorted(METRICS)


def test_the_page_of_methods_says_what_each_method_of_many_passes_costs():
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    table = page.partition("| method | source | passes")[2].partition("\n\n")[0]
    named = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    assert {name for name, method in METHODS.items() if method.many_passes} <= {*named} <= {*METHODS}
