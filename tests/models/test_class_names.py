"""Class names from a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from cfcam_gpu.models import load_model
from tests.helpers.load_models import RESNET, problem


def test_class_names_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes("\ufeffnormal\r\nPneumonie (schwer) é \r\n\r\n".encode())
    loaded = load_model(f"{RESNET}@none", num_classes=2, class_names=tmp_path / "names.txt")
    assert loaded.class_names == ("normal", "Pneumonie (schwer) é")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\nb\nc\n", "must be 2, one per line, got 3"),
        (b"a\n\nb\n", "must be one name per line: line 2 is blank"),
        (b"  \n", "must be one name per line: the file is empty"),
        (b"\xff\xfe\x00", "cannot be read as UTF-8 text (UnicodeDecodeError: "),
        (None, "cannot be read as UTF-8 text (FileNotFoundError: "),
    ],
)
def test_bad_class_name_files(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "names.txt"
    if content is not None:
        path.write_bytes(content)
    assert problem(f"{RESNET}@none", num_classes=2, class_names=path).startswith(
        f"the class names {path} {message}"
    )
