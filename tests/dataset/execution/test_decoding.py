"""Runs that decode large JPEGs smaller: what they store is of the original, and near what the full decode gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cfcam_gpu.dataset import explain_dataset
from cfcam_gpu.dataset.execution.worker import read_view
from cfcam_gpu.dataset.options import RunOptions
from cfcam_gpu.errors import ConfigError, StoreError
from cfcam_gpu.images.decode import load_image
from cfcam_gpu.images.preprocess import PUBLISHED_PREPROCESS
from cfcam_gpu.images.views import View
from cfcam_gpu.models import LoadedModel
from tests.helpers.large_photos import jpeg, mosaic, waves
from tests.helpers.smallnet import make_loaded, rows, run

#: As in `tests/images/test_scaled.py`: the map has 7×7 cells, heatmaps lie in [0, 1].
HEATMAP_MEAN = 0.05


@pytest.fixture
def large(tmp_path: Path, photos: list[Image.Image]) -> Path:
    """Three JPEGs: enlarged cat, turned by EXIF; mosaic; small enough to be decoded in full."""
    folder = tmp_path / "large"
    folder.mkdir()
    cat = photos[0].resize((1501, 999), Image.Resampling.LANCZOS)
    (folder / "cat.jpg").write_bytes(jpeg(cat, 6).getvalue())
    (folder / "mosaic.jpg").write_bytes(jpeg(mosaic(photos, (2048, 1536))).getvalue())
    (folder / "small.jpg").write_bytes(jpeg(photos[1]).getvalue())
    return folder


@pytest.mark.parametrize("workers", [0, 1])
def test_rows_and_overlays_are_of_the_original(
    tmp_path: Path, large: Path, lite0: LoadedModel, workers: int
) -> None:
    for decode in ("full", "scaled"):
        options = RunOptions(workers=workers, device="cpu", alpha=0.0, decode=decode)
        explain_dataset([str(large)], tmp_path / decode, lite0, options)
    full, scaled = rows(tmp_path / "full"), rows(tmp_path / "scaled")
    assert [(row["width"], row["height"]) for row in scaled] == [(999, 1501), (2048, 1536), (600, 400)]
    assert [row["box"] for row in scaled] == [row["box"] for row in full]
    assert [row["pred"] for row in scaled] == [row["pred"] for row in full]
    differences = [
        np.abs(a["grid"] / a["grid"].max() - b["grid"] / b["grid"].max()).mean()
        for a, b in zip(full, scaled, strict=True)
    ]
    assert max(differences) <= HEATMAP_MEAN
    assert min(differences[:2]) > 0
    np.testing.assert_array_equal(full[2]["grid"], scaled[2]["grid"])
    for row in scaled:  # alpha 0: the overlay is the original image
        overlay = Image.open(tmp_path / "scaled" / row["overlay"])
        np.testing.assert_array_equal(np.asarray(overlay), np.asarray(load_image(Path(row["uri"]))))


def test_masks_and_boxes_are_in_pixels_of_the_original(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(jpeg(waves((2045, 1581)), 8).getvalue())  # upright 1581 by 2045
    drawn = np.zeros((2045, 1581), np.uint8)
    drawn[100:700, 1000:1500] = 255
    Image.fromarray(drawn).save(tmp_path / "mask.png")
    for mask in ("box:1000,100,1500,700", (tmp_path / "mask.png").as_uri()):
        full, scaled = (
            read_view(str(tmp_path / "x.jpg"), PUBLISHED_PREPROCESS, mask, decode)
            for decode in ("full", "scaled")
        )
        assert full.mask is not None
        assert scaled.mask is not None
        # 224 / 2045 * 600 rows and 224 / 1581 * 500 columns
        assert scaled.mask.any(1).sum() == 66
        assert scaled.mask.any(0).sum() == 71
        np.testing.assert_array_equal(full.mask, scaled.mask)


def test_a_run_goes_on_with_the_decoder_it_began_with(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(jpeg(waves((300, 200))).getvalue())
    run(folder, tmp_path / "scaled", decode="scaled")
    assert json.loads((tmp_path / "scaled/run.json").read_text())["fingerprint"]["decode"] == "scaled"
    assert run(folder, tmp_path / "scaled", decode="scaled").before == 1
    with pytest.raises(
        StoreError, match=r"holds another run: decode was 'scaled', now 'full'; choose another"
    ):
        run(folder, tmp_path / "scaled")

    run(folder, tmp_path / "full")
    stored = json.loads((tmp_path / "full/run.json").read_text())
    assert stored["fingerprint"].pop("decode") == "full"
    (tmp_path / "full/run.json").write_text(json.dumps(stored))  # as a version without the entry stored it
    assert run(folder, tmp_path / "full").before == 1
    with pytest.raises(
        StoreError, match=r"holds another run: decode was 'full', now 'scaled'; choose another"
    ):
        run(folder, tmp_path / "full", decode="scaled")


def test_an_unknown_decoder_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"^unknown decoder 'scale' \(did you mean scaled\?\); choose one of: full"
    ):
        RunOptions(decode="scale")


def test_the_small_network_sees_smaller_jpegs_too(tmp_path: Path) -> None:
    """Its view of 32 by 32 pixels takes a JPEG of 300 by 200 at half its size."""
    (tmp_path / "a.jpg").write_bytes(jpeg(waves((300, 200))).getvalue())
    preprocess = make_loaded().preprocess
    full, scaled = (
        read_view(str(tmp_path / "a.jpg"), preprocess, None, decode) for decode in ("full", "scaled")
    )
    assert isinstance(full, View)
    assert isinstance(scaled, View)
    difference = np.abs(np.asarray(full.pixels).astype(int) - np.asarray(scaled.pixels))
    assert 0 < difference.max() <= 4
