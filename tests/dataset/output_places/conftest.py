"""Output folders at an S3 and in memory, the images of their runs, and what a run on a disk leaves."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cfcam_gpu._utils.places.place import Place
from tests.helpers.places import BUCKET, LocalS3
from tests.helpers.smallnet import photo, run, save

COUNT, PART = 12, 3
SETTINGS: dict[str, Any] = {"part_size": PART, "batch_size": PART, "max_errors": 9}


@pytest.fixture(autouse=True)
def _machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    monkeypatch.setenv("CFCAM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, this process is one with an empty cache folder."""
    return lambda: monkeypatch.setenv("CFCAM_CACHE", str(tmp_path / "cache of another machine"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures, of which the last cannot be decoded."""
    pictures: dict[str, Any] = {f"{i:02}": photo(i) for i in range(COUNT - 1)}
    return save(tmp_path_factory.mktemp("images") / "in", **pictures, bad=b"")


@pytest.fixture(scope="module")
def on_disk(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run on a disk leaves: parts and pictures."""
    out = tmp_path_factory.mktemp("disk") / "out"
    run(images, out, **SETTINGS)
    return contents(out)


def contents(out: Path) -> dict[str, bytes]:
    files = [path for path in out.rglob("*") if path.is_file() and ".cfcam" not in path.parts]
    return without_states({path.relative_to(out).as_posix(): path.read_bytes() for path in files})


def without_states(files: dict[str, bytes]) -> dict[str, bytes]:
    """The files that do not tell the time of the run."""
    return {name: content for name, content in files.items() if name != "run.json"}


class Server:
    """The output folder of a test, at an S3 or in memory."""

    def __init__(self, kind: str, name: str) -> None:
        self.url = f"s3://{BUCKET}/runs/{name}" if kind == "s3" else f"memory://{name}"

    def files(self) -> dict[str, bytes]:
        place = Place(self.url)
        names = [name for name in place.versions() if not name.startswith(".cfcam/")]
        return {name: place.below(name).read(0, 1 << 26) for name in names}


@pytest.fixture(params=["s3", "memory"])
def server(request: pytest.FixtureRequest, s3: LocalS3) -> Server:
    assert s3
    return Server(request.param, f"{request.node.originalname}-{id(request)}")


@pytest.fixture
def puts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are uploaded."""
    names: list[str] = []
    put = Place.put

    def counted(place: Place, source: Path) -> None:
        put(place, source)
        names.append(source.name)

    monkeypatch.setattr(Place, "put", counted)
    return names
