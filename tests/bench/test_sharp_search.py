"""Candidates change the map, keep what they are meant to keep, and are taken back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from bench import sharp_search
from cfcam_gpu import CFCAM


@pytest.mark.parametrize("name", [name for name in sharp_search.CANDIDATES if name != "middle 0.375"])
def test_a_candidate_changes_the_map_and_is_taken_back(lite0, photo_batch, name):
    cam, images = CFCAM(lite0.model, method="cfcam-sharp"), photo_batch[:1]
    before = cam(images, 1).grid
    with sharp_search.replaced(sharp_search.CANDIDATES[name]):
        changed = cam(images, 1).grid
    assert not torch.equal(changed, before)
    assert torch.equal(cam(images, 1).grid, before)


def test_a_foot_keeps_the_maximum_and_the_order():
    maps = torch.tensor([[[[0.0, 0.2, 0.4, 2.0]]]])
    for share, power in ((0.2, 1.0), (0.4, 0.5)):
        mixed = sharp_search._with_foot(share, power)(maps)
        assert mixed.max() == pytest.approx(2.0)
        assert (mixed.diff() > 0).all()
        assert (mixed >= (1 - share) * sharp_search._curve(maps)).all()
    dark = sharp_search._with_foot(0.2, 1.0)(torch.zeros(1, 1, 2, 2))
    assert torch.equal(dark, torch.zeros(1, 1, 2, 2))


def test_a_search_compares_its_half_with_gradcam_and_goes_on(tmp_path, photos, monkeypatch):
    for folder in ("images", "masks", "classes"):
        (tmp_path / folder).mkdir()
    for name in ("a", "b"):
        photos[1].save(tmp_path / "images" / f"{name}.jpg")
        mask = np.zeros((photos[1].height, photos[1].width), np.uint8)
        mask[: photos[1].height // 2] = 47
        Image.fromarray(mask).save(tmp_path / "masks" / f"{name}.png")
        photos[1].save(tmp_path / "classes" / f"0967_{name}.jpg")
    options = sharp_search.Options(
        str(tmp_path), str(tmp_path / "classes"), str(tmp_path / "out"), candidates=("no curve",)
    )
    found = sharp_search.run(options)
    assert found["questions"] == {"scenes": 1, "photos": 1}
    assert list(found["candidates"]) == ["gradcam", "no curve"]
    assert found["candidates"]["gradcam"]["scenes"]["pointing"]["difference"] == 0
    monkeypatch.setattr(sharp_search, "measure", None)
    assert sharp_search.run(options) == found
