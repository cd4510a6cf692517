"""Masks from files and boxes, in the model's view; the wrong ones with their reasons."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cfcam_gpu.dataset.sources.masks import box_mask, check_masks, open_mask, with_masks
from cfcam_gpu.dataset.sources.sample import Sample
from cfcam_gpu.errors import InputError
from cfcam_gpu.images.masks import MaskError
from cfcam_gpu.images.preprocess import Preprocess

PLAIN = Preprocess((32, 32), (0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize("kind", ["L", "1", "P", "RGB", "RGBA", "I;16"])
def test_a_mask_comes_to_the_models_view_as_the_image_does(tmp_path: Path, kind: str) -> None:
    """The image is white where its mask is, so the view of the one must be the mask of the other."""
    area = np.zeros((100, 160), bool)
    area[20:70, 60:110] = True
    path = tmp_path / "mask.png"
    if kind == "I;16":
        Image.fromarray(area.astype(np.uint16)).save(path)
    elif kind == "P":
        palette = Image.fromarray(area.astype(np.uint8), "P")
        palette.putpalette([255, 0, 0, 0, 0, 0])  # the index counts, not its colour
        palette.save(path)
    else:
        Image.fromarray(area.astype(np.uint8) * 255).convert(kind).save(path)
    preprocess = Preprocess((40, 40), (0, 0, 0), (1, 1, 1), resize=50, interpolation="nearest")
    picture = Image.fromarray(area.astype(np.uint8) * 255).convert("RGB")
    expected = preprocess.view(picture)[..., 0] > 0
    assert 0 < expected.sum() < expected.size
    np.testing.assert_array_equal(open_mask(str(path), (160, 100), preprocess), expected)
    box = box_mask("60,20,110,70")
    np.testing.assert_array_equal(open_mask(box, (160, 100), preprocess), expected)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((44, 60), np.uint8), "has 60 by 44 pixels, its image 60 by 45; masks must have the size"),
        (np.zeros((45, 60), np.uint8), "the mask marks nothing of the image of 60 by 45 pixels"),
        (b"no picture", "cannot be read: cannot identify image file"),
        (None, "cannot be read: No such file or directory"),
        ("70,5,90,20", "the box 70,5,90,20 lies outside of the image of 60 by 45 pixels"),
    ],
)
def test_a_mask_that_does_not_fit_is_an_error_of_its_image(
    tmp_path: Path, mask: object, message: str
) -> None:
    path = tmp_path / "m.png"
    text = box_mask(mask) if isinstance(mask, str) else str(path)
    if isinstance(mask, bytes):
        path.write_bytes(mask)
    elif isinstance(mask, np.ndarray):
        Image.fromarray(mask).save(path)
    with pytest.raises(MaskError, match=message):
        open_mask(text, (60, 45), PLAIN)


@pytest.mark.parametrize("text", ["1,2,3", "5,5,5,9", "9,5,1,9", "0,0,nan,9", "a,b,c,d", ""])
def test_texts_that_are_no_box(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must be x0,y0,x1,y1 in pixels with x0 < x1 and y0 < y1$"):
        box_mask(text)


def test_a_folder_gives_masks_by_the_samples_names(tmp_path: Path) -> None:
    (tmp_path / "ward").mkdir()
    (tmp_path / "ward" / "a 1.png").touch()
    samples = [Sample("1", "a.jpg", name="ward/a 1"), Sample("2", "b.jpg", name="b", mask="box:0,0,1,1")]
    first, second = with_masks(samples, tmp_path)
    assert first.mask == str(tmp_path / "ward" / "a 1.png")
    assert second == samples[1]
    (tmp_path / "b.png").touch()
    with pytest.raises(InputError, match="sample '2' has a mask in the manifest and in the folder of masks"):
        with_masks(samples, tmp_path)
    with pytest.raises(InputError, match=re.escape(f"the folder of masks {str(tmp_path / 'no')!r} does not")):
        with_masks(samples, tmp_path / "no")


def test_a_mistake_in_a_manifest_is_told_when_masks_are_needed() -> None:
    good, bad = Sample("1", "a.jpg", mask="box:0,0,1,1"), Sample("2", "b.jpg", mask="broken:line 3#no box")
    check_masks([good])
    with pytest.raises(InputError, match=r"^line 3: no box$"):
        check_masks([good, bad])
