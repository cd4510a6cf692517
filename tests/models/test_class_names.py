"""Class names from a file, and those of ImageNet."""

from __future__ import annotations

from pathlib import Path

import pytest

from cfcam_gpu.models import load_model
from cfcam_gpu.models.class_names import imagenet_names
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


@pytest.mark.parametrize("content", ["pneumonia\n", "not pneumonia\npneumonia\n"])
def test_one_output_takes_one_name_or_two(tmp_path: Path, content: str) -> None:
    path = tmp_path / "names.txt"
    path.write_text(content)
    loaded = load_model("torchvision:squeezenet1_1@none", num_classes=1, class_names=path)
    assert loaded.class_names == ("not pneumonia", "pneumonia")
    path.write_text("a\nb\nc\n")
    assert problem("torchvision:squeezenet1_1@none", num_classes=1, class_names=path) == (
        f"the class names {path} must be 1 or 2, one per line, got 3"
    )


def test_imagenet_names_are_those_of_torchvisions_weights() -> None:
    from torchvision.models import ResNet50_Weights

    assert imagenet_names() == tuple(ResNet50_Weights.IMAGENET1K_V2.meta["categories"])


def test_imagenet_names_where_torchvision_keeps_them_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    names = imagenet_names()
    monkeypatch.setattr(Path, "is_file", lambda _path: False)
    assert imagenet_names() == names
