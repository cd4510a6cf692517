"""Listing many samples: in memory that does not grow with their number, with the ids and names of a small listing."""

from __future__ import annotations

import os
import random
import tempfile
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from cfcam_gpu.dataset.sources import columns, folder_entries, spool
from cfcam_gpu.dataset.sources.find import find_samples, listed_samples
from cfcam_gpu.dataset.sources.folder_entries import sorted_entries
from cfcam_gpu.dataset.sources.listing import Listing, Unnamed
from cfcam_gpu.dataset.sources.names import unique_names
from cfcam_gpu.dataset.sources.sample import Sample
from cfcam_gpu.errors import InputError


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of three samples and sorted runs of four names, so that a handful of files goes to the disk."""
    monkeypatch.setattr(columns, "AT_ONCE", 3)
    monkeypatch.setattr(spool, "AT_ONCE", 3)
    monkeypatch.setattr(folder_entries, "_IN_MEMORY", 4)
    monkeypatch.setattr(folder_entries, "_WINDOW", 7)


def _write(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


NAMES = (
    "b.png",
    "a.jpg",
    "a.png",
    "A.jpg",
    "c/1.png",
    "c/2.png",
    "c/10.png",
    "c/1.jpg",
    "d\n.png",
    "é.png",
    "e-2.png",
)


@pytest.mark.usefixtures("small_pieces")
def test_the_disk_changes_no_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = _write(tmp_path / "one", *NAMES), _write(tmp_path / "two", *NAMES, "x/e.png")
    os.symlink(one / "b.png", two / "link.png")
    _write(tmp_path, os.fsdecode(b"two/caf\xe9.png"))
    (tmp_path / "l.csv").write_text("path,label\none/b.png,1.0\ntwo/b.png,2.0\n")
    inputs = [
        str(two),
        str(one / "b.png"),
        str(one),
        str(tmp_path / "l.csv"),
        str(tmp_path / "two" / "*.png"),
    ]
    on_disk = find_samples(inputs)
    monkeypatch.undo()
    assert on_disk == find_samples(inputs)
    assert len(on_disk) == len({sample.sample_id for sample in on_disk}) == 2 * len(NAMES) + 4


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("seed", range(5))
def test_ids_and_names_are_those_of_all_samples_at_once(seed: int) -> None:
    """The rules, written for lists: a shared id gets its origin and then a number, a shared name its extension."""
    draw = random.Random(seed)
    keys = [draw.choice(("a", "A", "a-2", "b", "b/c", "é")) for _ in range(20)]
    ends = [draw.choice((".png", ".jpg")) for _ in keys]
    origins = [draw.choice(("", "/x.tar", "/y.tar")) for _ in keys]
    listing = Listing()
    for key, end, origin in zip(keys, ends, origins, strict=True):
        listing.add(Unnamed(Sample(key, f"/{key}"), origin, key, key + end))
    samples = list(listing.named())
    assert [sample.name for sample in samples] == unique_names(
        keys, [k + e for k, e in zip(keys, ends, strict=True)]
    )
    assert [sample.sample_id for sample in samples] == list(_ids(keys, origins))


def _ids(keys: list[str], origins: list[str]) -> Iterator[str]:
    counts, taken = Counter(keys), set[str]()
    for key, origin in zip(keys, origins, strict=True):
        wanted = f"{origin}#{key}" if counts[key] > 1 and origin else key
        numbers = (f"{wanted}-{number}" for number in range(2, 100))
        taken.add(
            unique := wanted if wanted not in taken else next(one for one in numbers if one not in taken)
        )
        yield unique


@pytest.mark.usefixtures("small_pieces")
def test_a_folder_that_is_sorted_on_the_disk_has_the_order_of_its_names(tmp_path: Path) -> None:
    encoded = (b"a", b"a b", b"a\x01", b"a.b", b"\xff", b"\n", "é".encode(), "\U0001f600".encode())
    names = [os.fsdecode(name) for name in encoded]
    names += [f"{i}{'x' * (i % 9)}" for i in range(40)]
    _write(tmp_path, *names, ".hidden", "folder/x")
    os.symlink("nowhere", tmp_path / "link")
    entries = list(sorted_entries(tmp_path))
    assert [entry.name for entry in entries] == sorted([*names, "folder", "link"])
    assert [entry.name for entry in entries if entry.is_folder] == ["folder"]
    assert [entry.name for entry in entries if entry.is_link] == ["link"]


@pytest.mark.usefixtures("small_pieces")
def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(InputError, match=r"list of samples cannot be written in .*No space left .*TMPDIR"):
        listed_samples([str(_write(tmp_path / f"{n}", *map(str, range(3)))) for n in range(3)])


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("allowed", range(4))
def test_a_folder_whose_names_do_not_fit_on_the_disk_is_not_taken_for_one_broken_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: int
) -> None:
    """The disk is full at the first temporary file, or at a later one."""
    root = _write(tmp_path / "in", *(f"{folder}/{n}" for folder in "abc" for n in range(9)))
    made = iter(range(allowed))
    temporary_file = tempfile.TemporaryFile

    def full(prefix: str) -> object:
        if next(made, None) is None:
            raise OSError(28, "No space left on device")
        return temporary_file(prefix=prefix)

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(InputError, match="list of samples cannot be written"):
        listed_samples([str(root)])


class _Entry:
    """Stands for `os.DirEntry`."""

    def __init__(self, name: str, *, folder: bool) -> None:
        self.name, self.folder = name, folder

    def is_symlink(self) -> bool:
        return False

    def is_dir(self) -> bool:
        return self.folder


def test_memory_does_not_grow_with_the_files_of_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four times as many files, the first 500 in memory: hashes of 8 bytes a file, and 470 if the samples were held."""

    class Scan:
        def __init__(self, folder: Path) -> None:
            self.folder = folder

        def __enter__(self) -> Iterator[_Entry]:
            if self.folder == tmp_path:
                return (_Entry(f"n{n:08}", folder=True) for n in range(count // 200))
            return (_Entry(f"{PurePosixPath(self.folder).name}_{n}.JPEG", folder=False) for n in range(200))

        def __exit__(self, *_: object) -> None:
            return

    def peak() -> int:
        tracemalloc.start()
        samples = listed_samples([str(tmp_path)])
        assert len(samples) == count
        assert sum(len(piece["uri"]) for piece in samples.pieces("sample_id", "uri")) == count
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    monkeypatch.setattr(os, "scandir", Scan)
    monkeypatch.setattr(spool, "AT_ONCE", 500)
    # The least of three: once in a while the interpreter's table of names grows at once by some megabytes.
    count = 2_000
    few = min(peak() for _ in range(3))
    count = 8_000
    assert min(peak() for _ in range(3)) - few < 100 * 6_000
