"""URIs come back as they were made, are always storable text, and names of outputs stay in their folder."""

from __future__ import annotations

import os
import unicodedata
from pathlib import PurePosixPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cfcam_gpu.dataset.sources.sample import (
    SCHEMES,
    clean_text,
    image_stem,
    make_uri,
    path_uri,
    safe_name,
    split_uri,
)

#: What file systems, archives and people come up with, bytes that are no UTF-8 included.
_TEXT = st.one_of(
    st.text(max_size=30),
    st.text(alphabet="#@%+:/ .\\é\n\t\x00tarhf文", max_size=20),
    st.binary(max_size=20).map(os.fsdecode),
)


@given(st.data())
def test_uris_come_back_as_they_were_made(data: st.DataObject) -> None:
    scheme = data.draw(st.sampled_from(sorted(SCHEMES)))
    parts = data.draw(st.lists(_TEXT, min_size=SCHEMES[scheme], max_size=SCHEMES[scheme]))
    uri = make_uri(scheme, *parts)
    assert split_uri(uri) == (scheme, parts)
    assert uri.encode().decode() == uri
    assert uri.isprintable() or not any(unicodedata.category(c) == "Cc" and ord(c) < 128 for c in uri)


@given(_TEXT)
@example("tar:x#y@1+2")
@example("file:")
@example("a%20b#c@d.png")
def test_paths_come_back_as_they_were_made(path: str) -> None:
    uri = path_uri(path)
    assert split_uri(uri) == ("file", [path])
    uri.encode()


@pytest.mark.parametrize("path", ["/data/a photo #3 @50%.png", "C:/x.png", "sub/文.jpg", "http://x/y.png"])
def test_usual_paths_stand_as_they_are(path: str) -> None:
    assert path_uri(path) == path


def test_tar_uris_can_be_read_by_people() -> None:
    uri = make_uri("tar", "/data/part #1.tar", "a b/é@2.jpg@512+99")
    assert uri == "tar:/data/part %231.tar#a b/é@2.jpg@512+99"


@pytest.mark.parametrize("uri", ["tar:x", "tar:a#b#c", "hf:a#b#c", "broken:x"])
def test_wrong_number_of_parts_is_told(uri: str) -> None:
    scheme = uri.partition(":")[0]
    message = rf"^{scheme}: needs {SCHEMES[scheme]} parts divided by '#', got \d$"
    with pytest.raises(ValueError, match=message):
        split_uri(uri)


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
    ("text", "expected"),
    [
        ("café\t", "café\t"),
        (os.fsdecode(b"caf\xe9"), "caf\\xe9"),
        ("\ud800", "\\ud800"),
        ("\ud800\udce9", "\\ud800\\xe9"),
    ],
)
def test_text_that_cannot_be_stored_is_escaped(text: str, expected: str) -> None:
    assert clean_text(text) == expected
