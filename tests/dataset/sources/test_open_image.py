"""Every URI opens alone, or fails with a reason."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfcam_gpu.dataset.sources.open_image import open_image
from cfcam_gpu.errors import ImageError


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("/gone.png", "the file does not exist"),
        ("tar:/gone.tar#a@512+1", "the shard cannot be read: No such file or directory"),
        ("tar:/gone.tar", "not a URI of this program: tar: needs 2 parts divided by '#', got 1"),
        ("broken:where#why", "why"),
        ("a\0b", "no file can have this name: it contains a null character"),
    ],
)
def test_uris_that_cannot_be_opened(uri: str, reason: str) -> None:
    with pytest.raises(ImageError) as caught:
        open_image(uri)
    assert str(caught.value) == reason


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30) | st.sampled_from(["tar", "hf", "file", "broken"]).flatmap(
    lambda scheme: st.text("#@+:/.a0%\0é", max_size=25).map(lambda rest: f"{scheme}:{rest}")
))  # fmt: skip
def test_no_text_makes_opening_fail_in_another_way(uri: str) -> None:
    with pytest.raises(ImageError):
        open_image(uri)
