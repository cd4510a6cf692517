"""Names of output files are relative, stay inside their folder, and no two samples share one."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path, PurePath, PurePosixPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cfcam_gpu.dataset.sources.find import find_samples
from cfcam_gpu.dataset.sources.names import image_stem, is_plain, names_of, safe_name, unique_names
from cfcam_gpu.dataset.sources.sample import Sample

#: What file systems, archives and people come up with, bytes that are no UTF-8 included.
_TEXT = st.one_of(
    st.text(max_size=30),
    st.text(alphabet="#@%+:/ .\\é\n\t\x00tarhf文", max_size=20),
    st.binary(max_size=20).map(os.fsdecode),
)


def _touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def _names(found: list[Sample]) -> list[str]:
    return [sample.name for sample in found]


@given(_TEXT)
@example("../../etc/passwd")
@example("/etc/passwd")
@example("a/../../b")
@example("文" * 200 + ".png")
def test_names_of_outputs_are_relative_and_stay_inside(text: str) -> None:
    name = safe_name(text)
    assert not name.is_absolute()
    assert name.parts
    assert not {"", ".", ".."} & set(name.parts)
    assert all(len(part.encode()) < 200 for part in name.parts)
    assert not any(ord(c) < 32 or c in "\\\x7f" for c in str(name))


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("sub/cat.png", "sub/cat"),
        ("cat.JPEG", "cat"),
        ("patient.1", "patient.1"),
        ("...png", "...png"),
        ("cat", "cat"),
    ],
)
def test_only_an_images_extension_is_cut(name: str, stem: str) -> None:
    assert image_stem(PurePosixPath(name)) == PurePosixPath(stem)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["cat.png", "cat.jpg", "dog.png"], ["cat.png", "cat.jpg", "dog"]),
        (["Cat.png", "cat.jpg"], ["Cat.png", "cat.jpg"]),
        (["a/cat.png", "b/cat.png"], ["cat", "cat-2"]),
        (["a/cat.png", "b/CAT.PNG", "c/cat.png"], ["cat", "CAT-2", "cat-3"]),
        (["a/cat.png", "b/cat.png", "c/cat.jpg"], ["cat", "cat-2", "cat.jpg"]),
        (["a/cat.png", "b/cat.png", "cat-2.png"], ["cat", "cat-3", "cat-2"]),
        (["cat.png", "cat.jpg", "cat.png.jpg"], ["cat.png", "cat.jpg", "cat.png-2"]),
        (["archive.cpio.gz", "plain"], ["archive.cpio", "plain"]),
        (["...png", "..png"], ["...png", "..png"]),
    ],
)
def test_names_of_single_files(tmp_path: Path, files: list[str], expected: list[str]) -> None:
    paths = [_touch(tmp_path / name) for name in files]
    assert _names(find_samples([str(path) for path in paths])) == expected


def test_names_of_two_folders_do_not_clash(tmp_path: Path) -> None:
    for name in ("one/sub/cat.png", "two/sub/cat.png", "two/Sub/cat.jpg"):
        _touch(tmp_path / name)
    found = find_samples([str(tmp_path / "one"), str(tmp_path / "two")])
    assert _names(found) == ["sub/cat", "Sub/cat.jpg", "sub/cat-2"]


_PART = st.sampled_from(
    ["a", "A", "b", "a-2", "A-2", "a.png", "a-3", "ß", "SS", "\u00e9", "e\u0301", "..", ""]
)
_FILES = st.lists(
    st.tuples(st.sampled_from(["", "s/", "S/"]), _PART, st.sampled_from(["", ".png", ".PNG", ".jpg"]))
    .map("".join)
    .filter(lambda name: PurePath(name).name not in ("", ".", "..", "s", "S")),
    max_size=12,
)


@given(_FILES)
def test_names_are_unique_relative_and_stay_inside(files: list[str]) -> None:
    stems, fulls = zip(*(names_of(name) for name in files), strict=True) if files else ((), ())
    names = unique_names(stems, fulls)
    assert len(names) == len(files)
    folded = {unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold()) for name in names}
    assert len(folded) == len(names)
    for name in names:
        assert not PurePath(name).is_absolute()
        assert not {"", ".", ".."} & set(name.split("/"))
    assert names == unique_names(stems, fulls)


@given(st.text("ab.~ /:\\é\x7f-", min_size=1, max_size=12))
@example("a.b/c")
@example("a.")
def test_names_of_files_are_those_of_paths(text: str) -> None:
    """The short way for most paths."""
    if is_plain(text):
        path = PurePath(text)
        assert names_of(text) == (path.with_suffix("").as_posix(), path.as_posix())
