"""Large JPEGs decoded smaller: how much smaller, where the pixels lie, and how far they are from the full decode's."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cfcam_gpu.errors import ImageError
from cfcam_gpu.explainer import CFCAM
from cfcam_gpu.images.decode import decode, load_image
from cfcam_gpu.images.preprocess import PUBLISHED_PREPROCESS, Preprocess
from cfcam_gpu.images.read_options import ReadOptions
from cfcam_gpu.images.scaled import LARGEST_TOLERANCE, MEAN_TOLERANCE, Decoded, jpeg_scale
from cfcam_gpu.images.views import full_view, scaled_view
from cfcam_gpu.models import LoadedModel
from tests.helpers.large_photos import jpeg, mosaic, waves

ZERO, ONE = (0.0,) * 3, (1.0,) * 3
SQUASH = PUBLISHED_PREPROCESS
CROP = Preprocess((224, 224), ZERO, ONE, 256)

#: Heatmaps of EfficientNet-Lite0 by the scaled decode against those by the full one, values in [0, 1]: their mean
#: and largest difference. The layer's map has 7×7 cells and its weights depend on all of the image.
HEATMAP_MEAN, HEATMAP_LARGEST = 0.05, 0.2


def levels(view: Callable[..., Any], file: io.BytesIO, preprocess: Preprocess) -> np.ndarray:
    file.seek(0)
    pixels = view(file, "", preprocess).pixels
    assert isinstance(pixels, np.ndarray)
    return pixels.astype(int)


def differences(file: io.BytesIO, preprocess: Preprocess) -> np.ndarray:
    return np.abs(levels(scaled_view, file, preprocess) - levels(full_view, file, preprocess))


def scale_of(file: io.BytesIO, preprocess: Preprocess) -> int:
    file.seek(0)
    return decode(file, scale=partial(jpeg_scale, preprocess)).scale


@pytest.mark.parametrize(
    ("size", "preprocess", "scale"),
    [
        ((2048, 1536), SQUASH, 4),  # 1536 / 4 = 384 rows for 224: 1.71 times as many
        ((2048, 1536), CROP, 2),  # of 1536 rows 1344 are seen: 1.5 times 224 at a quarter, 3 times at a half
        ((1536, 2048), SQUASH, 4),
        ((2048, 1520), SQUASH, 2),  # 380 rows: 1.696 times as many
        ((500, 375), SQUASH, 1),
        ((762, 762), SQUASH, 2),  # 1.7 * 224 * 2 = 761.6
        ((761, 761), SQUASH, 1),
        ((20_000, 400), SQUASH, 1),
        ((8000, 6000), SQUASH, 8),
        ((8000, 6000), Preprocess((224, 224), ZERO, ONE, None, "nearest"), 1),
        ((8000, 6000), Preprocess((1024, 1024), ZERO, ONE), 2),
    ],
)
def test_the_scale_keeps_about_twice_the_pixels_of_the_view(
    size: tuple[int, int], preprocess: Preprocess, scale: int
) -> None:
    assert jpeg_scale(preprocess, *size) == scale


def test_a_box_of_the_original_in_the_pixels_of_the_scaled_image() -> None:
    image = Image.new("RGB", (4, 3))
    assert Decoded(image, 15, 12, scale=4, left=0.25).box((1, 2, 15, 12)) == (0.5, 0.5, 4.0, 3.0)
    assert Decoded(image, 4, 3).box((1, 0.5, 4, 3)) == (1, 0.5, 4, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("preprocess", [SQUASH, CROP], ids=["squash", "crop"])
def test_nothing_is_shifted_in_images_of_odd_size(orientation: int, preprocess: Preprocess) -> None:
    """A view that took the part of a pixel at the edge for a whole one would be 0.7 to 4 levels off on average."""
    file = jpeg(waves((2045, 1581)), orientation, quality=97, subsampling=0)
    assert scale_of(file, preprocess) == (4 if preprocess is SQUASH else 2)
    difference = differences(file, preprocess)
    assert difference.mean() <= 0.3
    assert difference.max() <= 3


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize(
    ("size", "resize"), [((2048, 1536), None), ((1600, 1200), None), ((2048, 1800), 256)]
)
def test_pixels_stay_within_the_tolerance(
    photos: list[Image.Image], size: tuple[int, int], resize: int | None, interpolation: str
) -> None:
    file = jpeg(mosaic(photos, size))
    preprocess = Preprocess((224, 224), ZERO, ONE, resize, interpolation)
    assert scale_of(file, preprocess) > 1
    difference = differences(file, preprocess)
    assert 0 < difference.mean() <= MEAN_TOLERANCE
    assert difference.max() <= LARGEST_TOLERANCE


@pytest.mark.parametrize(
    ("mode", "settings"),
    [("L", {}), ("CMYK", {}), ("RGB", {"progressive": True}), ("RGB", {"subsampling": 0, "quality": 75})],
)
def test_every_kind_of_jpeg_is_decoded_smaller(
    photos: list[Image.Image], mode: str, settings: dict[str, Any]
) -> None:
    file = jpeg(mosaic(photos, (2048, 1536)).convert(mode), **settings)
    assert scale_of(file, SQUASH) == 4
    difference = differences(file, SQUASH)
    assert 0 < difference.mean() <= MEAN_TOLERANCE
    assert difference.max() <= LARGEST_TOLERANCE


def test_a_file_with_several_pictures_gives_the_first(photos: list[Image.Image]) -> None:
    file = io.BytesIO()
    first = mosaic(photos, (1024, 1024))
    first.save(file, "mpo", save_all=True, append_images=[Image.new("RGB", (512, 512))])
    assert scale_of(file, SQUASH) == 2
    assert differences(file, SQUASH).mean() <= MEAN_TOLERANCE


def test_other_files_have_the_pixels_of_the_full_decode(photos: list[Image.Image]) -> None:
    large = mosaic(photos, (1024, 1024))
    png = io.BytesIO()
    large.save(png, "png")
    nearest = Preprocess((224, 224), ZERO, ONE, None, "nearest")
    for file, preprocess in ((png, SQUASH), (jpeg(photos[0]), SQUASH), (jpeg(large), nearest)):
        assert scale_of(file, preprocess) == 1
        assert differences(file, preprocess).max() == 0


def test_the_size_is_that_of_the_upright_original(photos: list[Image.Image]) -> None:
    view = scaled_view(jpeg(mosaic(photos, (2045, 1581)), 6), "", SQUASH)
    assert (view.width, view.height, view.decoding) == (1581, 2045, None)


def test_a_cut_file_has_the_reason_of_the_full_decode(tmp_path: Path, photos: list[Image.Image]) -> None:
    content = jpeg(mosaic(photos, (2048, 1536))).getvalue()
    path = tmp_path / "x.jpg"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageError) as full:
        load_image(path)
    with pytest.raises(ImageError) as scaled, path.open("rb") as stream:
        scaled_view(stream, "x.jpg", SQUASH)
    assert str(full.value) == str(scaled.value)
    assert str(full.value).startswith("truncated or corrupt: image file is truncated")


def test_a_large_image_is_refused_by_its_full_size() -> None:
    file = jpeg(Image.new("L", (2000, 1000)))
    with pytest.raises(
        ImageError, match=r" = 2,000,000 pixels is over the limit of 1,999,999; --max-pixels allows more$"
    ):
        decode(
            file,
            options=ReadOptions(max_pixels=1_999_999),
            scale=lambda width, height: 8 if width > height else 1,
        )


def test_heatmaps_stay_within_the_tolerance(lite0: LoadedModel, photos: list[Image.Image]) -> None:
    enlarged = [photo.resize((2048, 1536), Image.Resampling.LANCZOS) for photo in photos[:4]]
    files = [jpeg(picture) for picture in [*enlarged, mosaic(photos, (2048, 1536))]]
    views = [
        np.stack([levels(view, file, lite0.preprocess) for file in files]).astype(np.uint8)
        for view in (full_view, scaled_view)
    ]
    full, scaled = (lite0.preprocess.normalise(torch.from_numpy(pixels)) for pixels in views)
    with CFCAM(lite0.model) as cam:
        expected = cam(full)
        got = cam(scaled, targets=expected.targets)
    assert expected.logits is not None
    assert got.logits is not None
    assert torch.equal(got.logits.argmax(1), expected.logits.argmax(1))
    difference = (got.heatmap - expected.heatmap).abs()
    assert 0 < difference.mean((1, 2)).max() <= HEATMAP_MEAN
    assert difference.max() <= HEATMAP_LARGEST
