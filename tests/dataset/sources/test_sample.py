"""URIs come back as they were made and are always text that can be stored."""

from __future__ import annotations

import inspect
import os
import pickle
import unicodedata
from dataclasses import FrozenInstanceError, fields, make_dataclass, replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cfcam_gpu.dataset.sources.sample import (
    Sample,
    clean_text,
    make_uri,
    path_uri,
    split_uri,
)

#: Scheme -> number of parts, as stored URIs have them.
SCHEMES = {"tar": 2, "hf": 4, "file": 1, "broken": 2}

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


def test_a_sample_is_made_as_its_fields_say():
    """Its own `__init__` is the decorator's, only faster."""
    generated = make_dataclass("Generated", [(f.name, f.type, f) for f in fields(Sample)], frozen=True)
    made, expected = (inspect.signature(kind).parameters.values() for kind in (Sample, generated))
    assert [(one.name, one.default) for one in made] == [(one.name, one.default) for one in expected]
    sample = Sample("a", "/a.png", "cat", "dog", "a", "/m.png")
    assert vars(generated("a", "/a.png", "cat", "dog", "a", "/m.png")) == {
        field.name: getattr(sample, field.name) for field in fields(Sample)
    }
    assert pickle.loads(pickle.dumps(sample)) == replace(replace(sample, label=None), label="cat") == sample
    with pytest.raises(FrozenInstanceError):
        sample.label = "ant"  # type: ignore[misc]
