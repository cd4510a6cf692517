"""Weights and class names at URLs: copied once for each version, and loaded as files on a disk are."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cfcam_gpu._utils.places.cache import local_copy
from cfcam_gpu.errors import ModelError, PlaceError
from cfcam_gpu.models import load_model
from tests.helpers.places import WebServer, web_server

SPEC = "torchvision:squeezenet1_1"


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    monkeypatch.setenv("CFCAM_CACHE", str(tmp_path / "cache"))
    with web_server() as server:
        yield server


def test_a_file_is_fetched_once_for_each_version(web: WebServer, tmp_path: Path) -> None:
    web.files["/w.pth"] = b"one"
    url = web.url("/w.pth?sig=sesame")
    path = local_copy(url)
    assert (path.read_bytes(), path.parent) == (b"one", tmp_path / "cache")
    web.files["/w.pth"] = b"two"
    assert local_copy(url) == path  # the server states the same version
    assert path.read_bytes() == b"one"
    web.files["/w.pth"] = b"longer"  # its version is its ETag with its length
    assert local_copy(url).read_bytes() == b"longer"
    assert sorted(one.read_bytes() for one in path.parent.iterdir()) == [b"longer", b"one"]


def test_a_file_that_is_not_there_leaves_none(web: WebServer, tmp_path: Path) -> None:
    with pytest.raises(PlaceError, match="no such file"):
        local_copy(web.url("/w.pth"))
    assert not (tmp_path / "cache").exists()


def test_a_model_is_loaded_from_urls(web: WebServer) -> None:
    trained = load_model(f"{SPEC}@none", num_classes=2).model
    file = io.BytesIO()
    torch.save(trained.state_dict(), file)
    web.files |= {"/w.pth": file.getvalue(), "/names.txt": b"cat\ndog\n"}
    loaded = load_model(
        SPEC, weights=web.url("/w.pth?sig=sesame"), class_names=web.url("/names.txt"), num_classes=2
    )
    assert loaded.class_names == ("cat", "dog")
    assert loaded.weights == web.url("/w.pth?sig=***")
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(loaded.model.state_dict()[name], value)


def test_code_in_a_file_does_not_run(web: WebServer) -> None:
    file = io.BytesIO()
    torch.save({"model": io.BytesIO(), "w": print}, file)
    web.files["/w.pth"] = file.getvalue()
    with pytest.raises(ModelError, match="could run code and are not loaded"):
        load_model(SPEC, weights=web.url("/w.pth"), num_classes=2)


def test_weights_that_are_not_there_are_told(web: WebServer) -> None:
    with pytest.raises(ModelError, match=r"sig=\*\*\* cannot be read: there is no such file"):
        load_model(SPEC, weights=web.url("/w.pth?sig=sesame"), num_classes=2)
