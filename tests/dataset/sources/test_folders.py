"""Which files become inputs, and in which order."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from cfcam_gpu.dataset.sources import folders as sources
from cfcam_gpu.dataset.sources.find import find_samples
from cfcam_gpu.dataset.sources.open_image import open_image
from cfcam_gpu.dataset.sources.sample import Sample
from cfcam_gpu.errors import ImageError, InputError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """photos/ with a subfolder, a file that is no image, hidden files, and a neighbour folder."""
    for name in (
        "b.png",
        "a.jpg",
        "notes.txt",
        ".hidden.png",
        "sub/cat.png",
        ".git/config",
        "sub/deep/dog.png",
    ):
        _touch(tmp_path / "photos" / name)
    _touch(tmp_path / "other" / "x.png")
    return tmp_path / "photos"


def _touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def _names(found: list[Sample]) -> list[str]:
    return [sample.name for sample in found]


def test_folder_gives_every_visible_file_recursively_and_sorted(photos: Path) -> None:
    found = find_samples([str(photos)])
    assert _names(found) == ["a", "b", "notes", "sub/cat", "sub/deep/dog"]
    assert [sample.uri for sample in found][:2] == [str(photos / "a.jpg"), str(photos / "b.png")]


def test_current_folder_and_trailing_slash(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    assert (
        _names(find_samples(["."]))
        == _names(find_samples([f"{photos}/"]))
        == _names(find_samples([str(photos)]))
    )
    assert _names(find_samples(["../photos/sub"])) == ["cat", "deep/dog"]


def test_order_of_arguments_is_kept_and_each_file_comes_once(photos: Path) -> None:
    (photos / "link.png").symlink_to(photos / "b.png")
    found = find_samples(
        [str(photos / "sub" / "cat.png"), str(photos), f"{photos}/*.png", str(photos / "b.png")]
    )
    assert [Path(sample.uri).name for sample in found] == [
        "cat.png",
        "a.jpg",
        "b.png",
        "notes.txt",
        "dog.png",
    ]
    assert _names(found) == ["cat", "a", "b", "notes", "sub/deep/dog"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.png", ["b"]),
        ("[ab].*", ["a", "b"]),
        ("**/*.png", ["b", "cat", "dog"]),
        (
            "s*",
            ["cat", "deep/dog"],
        ),  # a folder that a pattern matches is searched, as when the shell expands it
        ("?.jpg", ["a"]),
    ],
)
def test_patterns(photos: Path, pattern: str, expected: list[str]) -> None:
    assert _names(find_samples([f"{photos}/{pattern}"])) == expected


def test_home_folder_is_expanded(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(photos))
    monkeypatch.setenv("USERPROFILE", str(photos))
    assert _names(find_samples(["~/sub/cat.png", "~/*.jpg"])) == ["cat", "a"]


def test_existing_file_that_reads_like_a_pattern_is_a_file(tmp_path: Path) -> None:
    path = _touch(tmp_path / "cat[1].png")
    _touch(tmp_path / "cat1.png")
    assert [(s.uri, s.name) for s in find_samples([str(path)])] == [(str(path), "cat[1]")]


def test_exclude_leaves_the_output_folder_out(photos: Path) -> None:
    _touch(photos / "output" / "b_cfcam.png")
    inputs = [str(photos), f"{photos}/**/*.png", f"{photos}/*"]
    assert "output/b_cfcam" in _names(find_samples(inputs))
    for text in inputs:
        assert "b_cfcam.png" not in [
            Path(s.uri).name for s in find_samples([text], exclude=photos / "output")
        ]


def test_exclude_above_the_inputs_hides_nothing(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    assert _names(find_samples(["sub", "*.jpg"], exclude=Path("."))) == ["cat", "deep/dog", "a"]


def test_files_named_by_themselves_are_never_left_out(photos: Path) -> None:
    path = str(photos / "sub" / "cat.png")
    assert _names(find_samples([path], exclude=photos / "sub")) == ["cat"]


def test_links_to_folders_are_followed_but_not_in_circles(photos: Path) -> None:
    (photos / "sub" / "up").symlink_to(photos)
    (photos / "sub" / "self").symlink_to(photos / "sub" / "self")
    (photos / "outside").symlink_to(photos.parent / "other")
    found = _names(find_samples([str(photos)]))
    assert found == ["a", "b", "notes", "outside/x", "sub/cat", "sub/deep/dog", "sub/self"]


def test_link_that_leads_nowhere_is_left_to_the_decoder_to_report(photos: Path) -> None:
    (photos / "gone.png").symlink_to(photos / "never.png")
    assert "gone" in _names(find_samples([str(photos)]))
    assert _names(find_samples([str(photos / "gone.png")])) == ["gone"]


READ = "which is not read, only s3://, gs://, hf://, https://, http:// or memory://"


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["az://box/photos"], f"input 'az://box/photos' is of the kind az://, {READ}"),
        (["gcs://box/*.jpg"], f"input 'gcs://box/*.jpg' is of the kind gcs://, {READ}"),
        (["missing.png"], "input 'missing.png' does not exist or cannot be reached; check the path"),
        (
            ["a.jpg", "*.gif"],
            "no file matches the pattern '*.gif' (hidden files and the output folder do not count)",
        ),
        (["empty"], "input folder 'empty' holds no files (hidden files and the output folder do not count)"),
        (["out"], "input folder 'out' is the output folder as well; choose another output folder"),
        (
            ["out/*/*"],
            "no file matches the pattern 'out/*/*' (hidden files and the output folder do not count)",
        ),
    ],
)
def test_errors_name_the_input(
    photos: Path, monkeypatch: pytest.MonkeyPatch, inputs: list[str], message: str
) -> None:
    (photos / "empty").mkdir()
    _touch(photos / "out" / "x.png")
    monkeypatch.chdir(photos)
    with pytest.raises(InputError) as caught:
        find_samples(inputs, exclude=Path("out"))
    assert str(caught.value) == message


@pytest.mark.parametrize("pattern", ["", "/**/*.png", "/s*"])
def test_an_unreadable_subfolder_is_one_failing_sample(
    photos: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    os_scandir = os.scandir

    def scandir(path: Path) -> object:
        if Path(path).name == "deep":
            raise PermissionError(13, "Permission denied", str(path))
        return os_scandir(path)

    monkeypatch.setattr(sources.os, "scandir", scandir)
    found = find_samples([f"{photos}{pattern}"])
    broken = [sample for sample in found if sample.uri.startswith("broken:")]
    assert [sample.name.rpartition("/")[2] for sample in broken] == ["deep"]
    with pytest.raises(ImageError) as caught:
        open_image(broken[0].uri)
    assert str(caught.value) == f"folder {str(photos / 'sub' / 'deep')!r} cannot be read: Permission denied"
    assert "cat" in [sample.name.rpartition("/")[2] for sample in found]
    if not pattern:
        assert _names(found) == ["a", "b", "notes", "sub/cat", "sub/deep"]


def test_an_unreadable_folder_that_was_named_is_an_error(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scandir(path: Path) -> object:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(sources.os, "scandir", scandir)
    with pytest.raises(InputError, match=rf"^folder '{photos}' cannot be read: Permission denied$"):
        find_samples([str(photos)])


def test_very_deep_folders_take_no_time_and_no_recursion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(1900):  # the longest path that Linux takes has some 2,000 levels
        os.mkdir("d")
        os.chdir("d")
    Path("x.png").touch()
    os.chdir(tmp_path)
    start = time.process_time()
    (sample,) = find_samples(["d"])
    assert time.process_time() - start < 20
    assert sample.sample_id == "d/" * 1899 + "x.png"
    for _ in range(1900):  # pytest's own removal calls itself at each level
        os.chdir("d")
    os.remove("x.png")
    for _ in range(1900):
        os.chdir("..")
        os.rmdir("d")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("part-{000..002}.tar.png", ["part-000.tar", "part-001.tar", "part-002.tar"]),
        ("part-{2..0}.png", ["part-2", "part-1", "part-0"]),
        ("{a,b}.png", ["a", "b"]),
        ("{a,b}-{1..2}.png", ["a-1", "a-2", "b-1", "b-2"]),
        ("{a,b}-*.png", ["a-1", "a-2", "b-1", "b-2"]),
        ("odd{1..2}.png", ["odd{1..2}"]),
    ],
)
def test_braces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: list[str]) -> None:
    for name in ("part-000.tar", "part-001.tar", "part-002.tar", "part-0", "part-1", "part-2", "a", "b"):
        _touch(tmp_path / f"{name}.png")
    for name in ("a-1", "a-2", "b-1", "b-2", "odd{1..2}"):
        _touch(tmp_path / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    assert _names(find_samples([text])) == expected


def test_a_name_that_braces_stand_for_and_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _touch(tmp_path / "0.tar")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        InputError, match=r"^input '1\.tar' does not exist or cannot be reached; check the path$"
    ):
        find_samples(["{0..2}.tar"])
    with pytest.raises(InputError, match=r"stands for 999,999,999 names; 1,000,000 are the most$"):
        find_samples(["{1..999999999}.tar"])
