"""Masks from files and boxes, in the model's view; the wrong ones with their reasons."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cfcam_gpu.dataset.sources.masks import box_mask, check_masks, open_mask, with_masks
from cfcam_gpu.dataset.sources.sample import Sample
from cfcam_gpu.errors import InputError
from cfcam_gpu.images.masks import MaskError, read_mask
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
        (b"no picture", "cannot be read: not an image that can be read"),
        (None, "cannot be read: the file does not exist"),
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


def _shape(picture: Image.Image, path: Path, **options: Any) -> np.ndarray:
    picture.save(path, **options)
    return read_mask(path, picture.size)


AREA = np.zeros((64, 96), bool)
AREA[10:30, 20:50] = True
OPACITY = AREA.astype(np.uint8) * 255


@pytest.mark.parametrize("colour", [0, 255, 7])
def test_a_shape_in_the_opacity_alone(tmp_path: Path, colour: int) -> None:
    flat = np.full((64, 96), colour, np.uint8)
    rgba = Image.fromarray(np.dstack([flat, flat, flat, OPACITY]))
    assert (_shape(rgba, tmp_path / "m.png") == AREA).all()
    assert (_shape(Image.fromarray(np.dstack([flat, OPACITY]), "LA"), tmp_path / "m.png") == AREA).all()
    palette = Image.fromarray(AREA.astype(np.uint8) + 1, "P")
    palette.putpalette([9, 9, 9] * 3)
    assert (_shape(palette, tmp_path / "m.png", transparency=b"\xff\x00\xff") == AREA).all()


def test_a_shape_in_the_colour_leaves_the_opacity_aside(tmp_path: Path) -> None:
    for opacity in (OPACITY[::-1], np.full((64, 96), 255, np.uint8), np.zeros((64, 96), np.uint8)):
        picture = Image.fromarray(np.dstack([OPACITY, OPACITY, OPACITY, opacity]))
        assert (_shape(picture, tmp_path / "m.png") == AREA).all()


@pytest.mark.parametrize("value", [255, 100])
@pytest.mark.parametrize(("kind", "quality"), [("jpg", 95), ("jpg", 50), ("webp", 60)])
def test_a_mask_compressed_with_losses_does_not_grow(
    tmp_path: Path, kind: str, quality: int, value: int
) -> None:
    picture = Image.fromarray(AREA.astype(np.uint8) * value)
    path = tmp_path / f"m.{kind}"
    shape = _shape(picture, path, quality=quality)
    with Image.open(path) as stored:
        assert (np.asarray(stored) != 0).any(tuple(range(2, np.asarray(stored).ndim))).sum() > AREA.sum()
    assert (shape == AREA).all()


def test_a_lossless_webp_keeps_small_values(tmp_path: Path) -> None:
    values = AREA.astype(np.uint8) * 255
    values[40:50, 60:70] = 1
    assert (
        _shape(Image.fromarray(values).convert("RGB"), tmp_path / "m.webp", lossless=True) == (values != 0)
    ).all()


def test_a_mask_is_turned_upright_as_the_image_is(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(OPACITY))).save(tmp_path / "m.png", exif=exif)
    assert (read_mask(tmp_path / "m.png", (96, 64)) == AREA).all()


def test_postscript_and_pipes_are_no_masks(tmp_path: Path) -> None:
    (tmp_path / "m.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 96 64\n%%EndComments\n")
    os.mkfifo(tmp_path / "m.png")
    for name, reason in (
        ("m.eps", "a PostScript file, not an image of pixels"),
        ("m.png", "not a regular file"),
    ):
        with pytest.raises(MaskError, match=f"cannot be read: {reason}"):
            read_mask(tmp_path / name, (96, 64))
