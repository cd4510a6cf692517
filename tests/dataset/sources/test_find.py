"""Inputs of every kind become samples with stable, unique ids, and each URI opens alone, without PyTorch."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cfcam_gpu.dataset.sources.find import find_samples
from cfcam_gpu.dataset.sources.open_image import open_image
from cfcam_gpu.dataset.sources.sample import Sample
from cfcam_gpu.errors import InputError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """photos/ with images, a file that is no image, and a subfolder."""
    for name in ("b.png", "a.jpg", "sub/a.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    return tmp_path / "photos"


def _tar(path: Path, *names: str) -> Path:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "png")
    with tarfile.open(path, "w") as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(buffer.getvalue())
            archive.addfile(info, io.BytesIO(buffer.getvalue()))
    return path


def _ids(samples: list[Sample]) -> list[str]:
    return [sample.sample_id for sample in samples]


def test_folder_gives_ids_below_it_and_absolute_uris(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos.parent)
    samples = find_samples(["photos"])
    assert [(s.sample_id, s.name, s.uri, s.label, s.target) for s in samples] == [
        ("a.jpg", "a", str(photos / "a.jpg"), None, None),
        ("b.png", "b", str(photos / "b.png"), None, None),
        ("notes.txt", "notes", str(photos / "notes.txt"), None, None),
        ("sub/a.png", "sub/a", str(photos / "sub" / "a.png"), None, None),
    ]
    assert find_samples([str(photos)]) == find_samples(["photos/"]) == samples


def test_ids_do_not_depend_on_how_a_pattern_is_expanded(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    assert _ids(find_samples(["photos/*.*g"])) == ["photos/a.jpg", "photos/b.png"]
    assert find_samples(["photos/*.*g"]) == find_samples(["photos/a.jpg", "photos/b.png"])
    assert _ids(find_samples(["photos/b.png"])) == ["photos/b.png"]


def test_ids_of_several_folders_say_which(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    Image.new("RGB", (4, 4)).save(photos / "sub" / "b.png")
    (photos / "other").mkdir()
    Image.new("RGB", (4, 4)).save(photos / "other" / "b.png")
    assert _ids(find_samples(["sub", "other"])) == ["sub/a.png", "sub/b.png", "other/b.png"]


def test_kinds_may_be_mixed_and_a_file_comes_once(photos: Path, tmp_path: Path) -> None:
    shard = _tar(tmp_path / "s.tar", "0.png", "1.png")
    (tmp_path / "list.csv").write_text("path,label\nphotos/b.png,cat\n")
    found = find_samples(
        [str(shard), str(tmp_path / "list.csv"), f"{photos}/*.jpg", str(shard), f"{tmp_path}/*.tar"]
    )
    assert _ids(found) == ["s/0", "s/1", "photos/b.png", f"{photos}/a.jpg"]
    assert [s.name for s in found] == ["s/0", "s/1", "photos/b", "a"]


def test_equal_ids_of_two_manifests_get_their_files(photos: Path) -> None:
    for name in ("x.csv", "y.csv"):
        (photos / name).write_text("path\nb.png\n")
    lists = [str(photos / "x.csv"), str(photos / "y.csv")]
    assert _ids(find_samples(lists)) == [f"{lists[0]}#b.png", f"{lists[1]}#b.png"]
    assert [s.name for s in find_samples(lists)] == ["b", "b-2"]


def test_output_folder_is_left_out(photos: Path) -> None:
    (photos / "out").mkdir()
    (photos / "out" / "a_cfcam.png").touch()
    assert "out/a_cfcam.png" in _ids(find_samples([str(photos)]))
    assert "out/a_cfcam.png" not in _ids(find_samples([str(photos)], exclude=photos / "out"))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "no inputs: name at least one image file, folder, pattern, manifest or shard"),
        (["gone.tar"], "input 'gone.tar' does not exist or cannot be reached; check the path"),
        (["gone.csv"], "input 'gone.csv' does not exist or cannot be reached; check the path"),
    ],
)
def test_errors_name_the_input(inputs: list[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        find_samples(inputs)
    assert str(caught.value) == message


@pytest.mark.parametrize("name", [b"caf\xe9.png", b"tar:a#b.png", b"a\nb.png", b"hf:x.png", b"%41 #@.png"])
def test_files_of_any_name_are_opened_again_and_can_be_stored(tmp_path: Path, name: bytes) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / os.fsdecode(name), "png")
    (sample,) = find_samples([str(tmp_path)])
    for text in (sample.sample_id, sample.uri, sample.name):
        text.encode()
    assert open_image(sample.uri).size == (4, 4)


_NAME = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=12
).filter(lambda name: not name.startswith(".") and len(name.encode()) < 100)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_NAME, min_size=1, max_size=4, unique=True))
def test_every_member_and_file_of_any_name_is_found_once(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("x")
    shard = _tar(folder / "s.tar", *(f"{name}.png" for name in names))
    for name in names:
        Image.new("RGB", (3, 3)).save(folder / f"{name}.png", "png")
    samples = find_samples([str(folder)])
    files = [s for s in samples if not s.uri.startswith("tar:")]
    members = [s for s in samples if s.uri.startswith("tar:")]
    assert sorted(_ids(files)) == sorted(f"{name}.png" for name in names)
    assert len(members) == len(names) == len(find_samples([str(shard)]))
    assert len(set(_ids(samples))) == len({s.name.casefold() for s in samples}) == len(samples)
    assert {open_image(s.uri).size for s in files} == {(3, 3)}
    assert {open_image(s.uri).size for s in members} == {(4, 4)}


def test_listing_takes_little_memory_for_each_file(tmp_path: Path) -> None:
    """Six thousand files: their texts are some 300 bytes each, and nothing else of them is kept or there twice."""
    for folder in range(20):
        (tmp_path / "in" / f"n{folder:08}").mkdir(parents=True)
        for i in range(300):
            (tmp_path / "in" / f"n{folder:08}" / f"n{folder:08}_{i:06}.JPEG").touch()
    find_samples([str(tmp_path / "in" / "n00000000")])  # modules are imported
    tracemalloc.start()
    samples = find_samples([str(tmp_path / "in")])
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(samples) == 6000
    assert held / 6000 < 550
    assert peak / 6000 < 800


def test_finding_and_opening_need_neither_pytorch_nor_another_heavy_library(
    photos: Path, tmp_path: Path
) -> None:
    shard = _tar(tmp_path / "s.tar", "0.png")
    code = f"""
import sys
from cfcam_gpu.dataset.sources.find import find_samples
from cfcam_gpu.dataset.sources.open_image import open_image
samples = find_samples([{str(photos / "b.png")!r}, {str(shard)!r}])
assert [open_image(sample.uri).mode for sample in samples] == ["RGB", "RGB"]
heavy = {{"torch", "cv2", "pyarrow", "pandas", "pydicom", "datasets"}} & set(sys.modules)
assert not heavy, heavy
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
