"""The photos that methods are compared on: halves that share no object, cut-outs, composites with true masks."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from bench.evaluation import recognised, write_composites, write_photos
from bench.photos import PHOTOS, SEARCH, SIDE, UNSEEN, Photo, compose, cut_out
from cfcam_gpu.errors import InputError
from cfcam_gpu.models import LoadedModel

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("foolbox") is None, reason="the photos come with the extra evaluate"
)


def test_the_halves_share_no_class() -> None:
    """What is tuned on one half has not seen the objects of the other."""
    classes = {half: {p.target for p in PHOTOS.values() if p.half == half} for half in (SEARCH, UNSEEN)}
    assert not classes[SEARCH] & classes[UNSEEN]
    assert all(len(targets) >= 8 for targets in classes.values())


def test_every_photo_opens_and_its_boxes_lie_inside() -> None:
    for photo in PHOTOS.values():
        assert min(photo.open().size) >= 300
        for left, top, right, bottom in photo.boxes:
            assert 0 <= left < right <= 1
            assert 0 <= top < bottom <= 1
        assert photo.boxes or not photo.cut


def test_a_missing_photo_names_the_extra() -> None:
    with pytest.raises(InputError, match=r"run: pip install 'cfcam-gpu\[demo,evaluate\]'"):
        Photo("foolbox", "data/none.jpg", 0, SEARCH).open()
    with pytest.raises(InputError, match="nowhere, which is not installed"):
        Photo("nowhere", "data/none.jpg", 0, SEARCH).open()


def test_a_cut_out_is_the_object_without_its_background() -> None:
    """The bottlecap is red and round, on a white wall: nothing white is left in the corners of its box."""
    cut = np.asarray(cut_out(PHOTOS["bottlecap"]))
    opaque = cut[..., 3] > 127
    assert 0.6 < opaque.mean() < 0.9
    corners = [opaque[:8, :8], opaque[:8, -8:], opaque[-8:, :8], opaque[-8:, -8:]]
    assert not any(corner.any() for corner in corners)
    red, green, _ = cut[opaque][:, :3].mean(0)
    assert red > 1.5 * green


def test_composites_are_the_same_every_time_and_their_masks_apart() -> None:
    first, again = compose(UNSEEN, 4), compose(UNSEEN, 4)
    for composite, other in zip(first, again, strict=True):
        assert np.array_equal(composite.image, other.image)
        assert composite.image.shape == (SIDE, SIDE, 3)
        left, right = composite.masks
        assert not (left & right).any()
        assert min(left.sum(), right.sum()) > 0.02 * SIDE**2
        assert len({PHOTOS[name].target for name in composite.names}) == 2
        assert all(PHOTOS[name].half == UNSEEN for name in composite.names)


def test_questions_name_their_class_and_mask(tmp_path: Path, lite0: LoadedModel) -> None:
    """Of the photos, whose classes the model knows, most are recognised; files and masks are there."""
    rows = write_photos(tmp_path, UNSEEN)
    assert rows
    assert len(recognised(lite0, tmp_path, rows)) >= 0.8 * len(rows)
    for row in rows + write_composites(tmp_path, UNSEEN, 2):
        assert (tmp_path / row["path"]).is_file()
        assert "mask" not in row or (tmp_path / row["mask"]).is_file()
