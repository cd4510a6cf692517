"""What runs after the GPU's decoder: on the CPU, with a decoder that stands in for nvJPEG."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor

from cfcam_gpu.dataset.execution import gpu_decoder
from cfcam_gpu.dataset.execution.batch_explainer import BatchExplainer
from cfcam_gpu.dataset.execution.gpu_decoder import GpuDecoder, nvjpeg, resize_view, turn_upright
from cfcam_gpu.dataset.execution.parts import PendingPart
from cfcam_gpu.dataset.execution.pipeline import Pipeline
from cfcam_gpu.dataset.execution.pool import InlinePool
from cfcam_gpu.dataset.sources.sample import Sample
from cfcam_gpu.dataset.store.journal import Journals
from cfcam_gpu.dataset.store.store import Store
from cfcam_gpu.errors import BackendError
from cfcam_gpu.explainer import CFCAM
from cfcam_gpu.images.decoders import DECODERS
from cfcam_gpu.images.preprocess import INTERPOLATIONS, PUBLISHED_PREPROCESS, Preprocess
from cfcam_gpu.images.views import FileView, View
from cfcam_gpu.models import LoadedModel
from tests.helpers.large_photos import ORIENTATION, jpeg
from tests.helpers.smallnet import PLAIN, make_loaded, photo, run

CPU = torch.device("cpu")
ZERO, ONE = (0.0,) * 3, (1.0,) * 3

#: A value halfway between two levels may be rounded either way: a level, and in few pixels.
LEVELS, SHARE = 1, 0.03

#: On photos, where Pillow resizes the height before the width: it rounds, and cuts off overshoot, in another order.
OTHER_ORDER_LEVELS, OTHER_ORDER_MEAN = 12, 0.3


def stand_in(contents: Sequence[bytes]) -> list[Tensor]:
    """Decodes as nvJPEG does: in full, not turned upright, all files or none."""
    if any(b"nvJPEG cannot" in content for content in contents):
        raise RuntimeError("nvjpegDecodeBatched failed: 4")
    images = [Image.open(io.BytesIO(content)).convert("RGB") for content in contents]
    return [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images]


def as_file_view(file: io.BytesIO) -> FileView:
    view = DECODERS["gpu"].read(file, "", PLAIN)
    assert isinstance(view, FileView)
    return view


def assert_same_levels(actual: Tensor | np.ndarray, expected: Tensor | np.ndarray) -> None:
    difference = np.abs(np.asarray(actual).astype(int) - np.asarray(expected).astype(int))
    assert difference.max() <= LEVELS
    assert (difference > 0).mean() <= SHARE


def resized_in_two_steps(image: Image.Image, preprocess: Preprocess) -> Image.Image:
    """The view by Pillow, the width first: which of the two Pillow itself takes first depends on its version."""
    if preprocess.interpolation == "nearest":
        return Image.fromarray(preprocess.view(image))
    left, top, right, bottom = preprocess.visible_box(*image.size)
    height, width = preprocess.size
    method = INTERPOLATIONS[preprocess.interpolation]
    narrow = image.resize((width, image.height), method, (left, 0, right, image.height))
    return narrow.resize((width, height), method, (0, top, width, bottom))


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("size", [(451, 300), (300, 451), (97, 1201), (60, 45), (224, 224), (1, 1)])
@pytest.mark.parametrize(("view", "resize"), [((224, 224), None), ((200, 224), 256), ((33, 65), None)])
def test_resized_views_are_those_of_pillow(
    interpolation: str, size: tuple[int, int], view: tuple[int, int], resize: int | None
) -> None:
    pixels = np.random.default_rng(size).integers(0, 256, (size[1], size[0], 3), np.uint8)
    preprocess = Preprocess(view, ZERO, ONE, resize, interpolation)
    actual = resize_view(torch.from_numpy(pixels).permute(2, 0, 1), preprocess)
    assert (actual.shape, actual.dtype) == ((*view, 3), torch.uint8)
    assert_same_levels(actual, np.asarray(resized_in_two_steps(Image.fromarray(pixels), preprocess)))


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("resize", [None, 256])
def test_resized_photos_are_those_of_the_preprocessing(
    photos: list[Image.Image], interpolation: str, resize: int | None
) -> None:
    preprocess = Preprocess((224, 224), ZERO, ONE, resize, interpolation)
    for image in (*photos, photos[0].rotate(90, expand=True)):
        actual = resize_view(torch.from_numpy(np.array(image)).permute(2, 0, 1), preprocess).numpy()
        difference = np.abs(actual.astype(int) - preprocess.view(image))
        assert difference.max() <= (0 if interpolation == "nearest" else OTHER_ORDER_LEVELS)
        assert difference.mean() <= OTHER_ORDER_MEAN


@pytest.mark.parametrize("orientation", range(1, 9))
def test_files_are_turned_upright_as_pillow_turns_them(orientation: int) -> None:
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    image = Image.fromarray(pixels)
    image.getexif()[ORIENTATION] = orientation
    expected = np.asarray(ImageOps.exif_transpose(image))
    actual = turn_upright(torch.from_numpy(pixels).permute(2, 0, 1), orientation).permute(1, 2, 0)
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("at_once", [1, 200_000, 10**9])
def test_views_are_those_of_the_cpu_in_order(
    photos: list[Image.Image], monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(gpu_decoder, "_PIXELS_AT_ONCE", at_once)
    files = [jpeg(image, 1 + i % 4) for i, image in enumerate(photos)]  # all wider than high: the width first
    views = GpuDecoder(CPU, PUBLISHED_PREPROCESS, stand_in).views([as_file_view(file) for file in files])
    for file, view in zip(files, views, strict=True):
        file.seek(0)
        expected = DECODERS["full"].read(file, "", PUBLISHED_PREPROCESS)
        assert isinstance(view, View)
        assert isinstance(expected, View)
        assert (view.width, view.height, view.mask) == (expected.width, expected.height, None)
        assert_same_levels(view.pixels, expected.pixels)


def test_a_file_that_the_gpu_cannot_decode_costs_no_other_its_view(caplog: pytest.LogCaptureFixture) -> None:
    files = [as_file_view(jpeg(photo(i), comment=b"nvJPEG cannot" * (i in (1, 3)))) for i in range(5)]
    with caplog.at_level(logging.WARNING, "cfcam_gpu"):
        views = GpuDecoder(CPU, PLAIN, stand_in).views(files)
    assert [view is None for view in views] == [False, True, False, True, False]
    assert caplog.messages == [
        "the GPU cannot decode a file (RuntimeError: nvjpegDecodeBatched failed: 4); the CPU decodes such files"
    ]


def test_an_image_of_another_size_than_its_header_says_is_left_to_the_cpu() -> None:
    def halves(contents: Sequence[bytes]) -> list[Tensor]:
        return [pixels[:, ::2] for pixels in stand_in(contents)]

    assert GpuDecoder(CPU, PLAIN, halves).views([as_file_view(jpeg(photo(0)))]) == [None]


def test_torchvision_decodes_the_files(photos: list[Image.Image]) -> None:
    """Through the same calls as on the GPU, by its decoder for the CPU."""
    contents = [jpeg(image).getvalue() for image in photos[:2]]
    for actual, expected in zip(nvjpeg(CPU)(contents), stand_in(contents), strict=True):
        assert (actual.int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            RuntimeError("not compiled with nvJPEG support\nmore"),
            r"RuntimeError: not compiled with nvJPEG support",
        ),
        (AttributeError("decode_jpegs_cuda"), "AttributeError: decode_jpegs_cuda"),
    ],
)
def test_a_torchvision_that_cannot_decode_is_refused(
    monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def fail(*_: object) -> list[Tensor]:
        raise error

    monkeypatch.setattr("torchvision.io.decode_jpeg", fail)
    with pytest.raises(BackendError) as caught:
        nvjpeg.__wrapped__(torch.device("cuda"))
    assert str(caught.value) == (
        f"--decode gpu needs torchvision's nvJPEG, which does not work on cuda ({reason}); "
        "use --decode full or scaled"
    )


def test_a_decoder_with_wrong_colors_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.io.decode_jpeg", lambda *_: [torch.zeros(3, 16, 32, dtype=torch.uint8)])
    with pytest.raises(
        BackendError, match=r"^torchvision's nvJPEG decodes a JPEG to wrong pixels on cuda; use "
    ):
        nvjpeg.__wrapped__(torch.device("cuda"))


def test_a_run_without_a_gpu_is_refused_before_the_model_is_loaded(tmp_path: Path) -> None:
    def never() -> LoadedModel:
        raise AssertionError

    photo(0).save(tmp_path / "a.jpg")
    with pytest.raises(BackendError) as caught:
        run(tmp_path, tmp_path / "out", model=never, decode="gpu")
    assert str(caught.value) == (
        "--decode gpu needs an NVIDIA GPU, and this run's device is cpu; use --decode full or scaled, or "
        "--device cuda on a machine that has one"
    )
    assert not (tmp_path / "out").exists()


def test_rows_are_those_of_the_full_decode(tmp_path: Path) -> None:
    """A JPEG, one turned by EXIF, one that the GPU refuses, one in gray, a PNG, a cut JPEG and no image."""
    cut = jpeg(photo(5, (300, 200))).getvalue()
    files = {
        "a.jpg": jpeg(photo(0, (300, 200))).getvalue(),
        "b.jpg": jpeg(photo(1, (301, 203)), 6).getvalue(),
        "c.jpg": jpeg(photo(2, (300, 200)), comment=b"nvJPEG cannot").getvalue(),
        "d.jpg": jpeg(photo(3, (300, 200)).convert("L")).getvalue(),
        "f.jpg": cut[: len(cut) // 2],
        "g.jpg": b"no image",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    photo(4).save(tmp_path / "e.png")
    samples = [Sample(name, str(tmp_path / name)) for name in sorted([*files, "e.png"])]
    explainer = BatchExplainer(make_loaded(), CFCAM(make_loaded().model, "conv", on_invalid="flag"), CPU, 4)
    explainer.warm_up()

    journals = Journals(Store(tmp_path / "out"), explainer.map_shape, "")

    def rows(decode: str, decoder: GpuDecoder | None) -> list[dict[str, Any]]:
        pipeline = Pipeline(explainer, InlinePool(), 4, 8, None, lambda: None, decode, decoder)
        ((_, found),) = pipeline([PendingPart(0, samples)], lambda _: None, journals)
        return [dict(row) for row in found]

    expected = rows("full", None)
    actual = rows("gpu", GpuDecoder(CPU, PLAIN, stand_in))
    assert [row["status"] for row in actual] == ["ok"] * 5 + ["error"] * 2
    maps = [
        (row.pop("grid", None), other.pop("grid", None)) for row, other in zip(actual, expected, strict=True)
    ]
    for row, other in zip(actual, expected, strict=True):
        assert row == {name: pytest.approx(value, rel=0.02) if isinstance(value, float) else value
                       for name, value in other.items()}  # fmt: skip
    for grid, other_grid in maps[:5]:
        assert isinstance(grid, np.ndarray)
        assert isinstance(other_grid, np.ndarray)
        np.testing.assert_allclose(grid, other_grid, atol=0.02 * np.max(other_grid))
