"""From an image to the model's input, and which part of the image that is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from cfcam_gpu.errors import ImageError, ModelError
from cfcam_gpu.images.preprocess import PUBLISHED_PREPROCESS, Preprocess


def test_the_published_preprocessing_squashes_the_whole_image(photos: list[Image.Image]) -> None:
    theirs = torchvision.transforms.Compose(
        [
            torchvision.transforms.Resize((224, 224)),
            torchvision.transforms.ToTensor(),
            torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    assert torch.equal(PUBLISHED_PREPROCESS(photos[0]), theirs(photos[0]))
    assert PUBLISHED_PREPROCESS.visible_box(451, 300) == (0, 0, 451, 300)


@pytest.mark.parametrize(("width", "height"), [(451, 300), (300, 451), (256, 256), (1000, 999), (20, 3000)])
def test_visible_box_is_what_the_model_sees(width: int, height: int) -> None:
    """A ramp along each axis shows which part of the image comes through."""
    preprocess = Preprocess((224, 200), (0.0,) * 3, (1.0,) * 3, 256)
    left, top, right, bottom = preprocess.visible_box(width, height)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert (bottom - top) / (right - left) == pytest.approx(224 / 200, rel=0.02)
    for axis, (low, high, length) in enumerate(((top, bottom, height), (left, right, width))):
        ramp = (np.indices((height, width))[axis] + 0.5) / length
        levels = np.rint(ramp * 255).astype(np.uint8)
        seen = preprocess(Image.fromarray(np.repeat(levels[..., None], 3, axis=2)))[0].mean(1 - axis)
        expected = (low + (torch.arange(len(seen)) + 0.5) * (high - low) / len(seen)) / length
        # Away from the image's ends, where resizing flattens the ramp: half a level of rounding, twice.
        inner = slice(9, -9)
        assert (seen[inner] - expected[inner]).abs().max() <= 1.01 / 255


def test_extremely_long_image_costs_no_more_than_its_view() -> None:
    image = Image.new("RGB", (1, 60_000), (255, 0, 0))
    view = Preprocess((224, 224), (0.0,) * 3, (1.0,) * 3, 256)(image)
    assert view.shape == (3, 224, 224)
    assert torch.equal(view.mean((1, 2)), torch.tensor([1.0, 0.0, 0.0]))


def test_preprocess_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ModelError, match=r"^resize must be at least 224 for size \(224, 224\), got 200$"):
        Preprocess((224, 224), (0.0,) * 3, (1.0,) * 3, 200)
    with pytest.raises(
        ModelError, match=r"^unknown interpolation 'box'; choose one of: bilinear, bicubic, nearest, lan"
    ):
        Preprocess((224, 224), (0.0,) * 3, (1.0,) * 3, None, "box")
    with pytest.raises(ImageError, match=r"^expected an RGB image, got mode L; read files with load_image$"):
        PUBLISHED_PREPROCESS(Image.new("L", (4, 4)))


SIZES = [
    (500, 375),
    (375, 500),
    (333, 500),
    (224, 300),
    (256, 400),
    (1000, 257),
    (257, 1000),
    (31, 77),
    (256, 256),
]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "nearest"])
@pytest.mark.parametrize(("size", "resize"), [(224, 256), (40, 48), (299, 342)])
def test_pixels_are_torchvisions_in_every_orientation(interpolation: str, size: int, resize: int) -> None:
    generator = np.random.default_rng(0)
    mode = torchvision.transforms.InterpolationMode(interpolation)
    theirs = torchvision.transforms.Compose(
        [torchvision.transforms.Resize(resize, mode), torchvision.transforms.CenterCrop(size)]
    )
    preprocess = Preprocess((size, size), (0.0,) * 3, (1.0,) * 3, resize, interpolation)
    for width, height in SIZES:
        image = Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))
        expected = np.asarray(theirs(image)).astype(int)
        assert np.abs(preprocess.view(image).astype(int) - expected).max() <= 1, (width, height)
