"""A working folder with a small model and photos."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.smallnet import photo
from tests.helpers.tinynet import FACTORY


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a small model, names of its classes, and two photos in `good/`."""
    monkeypatch.chdir(tmp_path)
    Path("tinynet.py").write_text(FACTORY)
    Path("names.txt").write_text("ant\nbumble bee\ncat\n")
    Path("good").mkdir()
    photo(1).save("good/a.png")
    photo(2).save("good/b.png")
    return tmp_path


@pytest.fixture
def mixed(work: Path) -> Path:
    """`mixed/`: two good photos among files that cannot be decoded."""
    folder = work / "mixed"
    folder.mkdir()
    photo(1).save(folder / "a.png")
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:200])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "notes.txt").write_text("not an image")
    photo(2).save(folder / "z.jpg")
    return folder
