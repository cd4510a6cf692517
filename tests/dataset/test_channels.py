"""Dataset runs of models of one and of four channels: rows, fingerprint and overlays."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cfcam_gpu import CFCAM
from cfcam_gpu.dataset import explain_dataset
from cfcam_gpu.images.overlay import draw_overlay, fit_heatmap, upsample_grid
from cfcam_gpu.images.preprocess import Preprocess
from cfcam_gpu.models import LoadedModel
from tests.helpers.smallnet import rows as result_rows


def _loaded(channels: int) -> LoadedModel:
    torch.manual_seed(2)
    net = nn.Sequential(
        nn.Conv2d(channels, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )
    preprocess = Preprocess((32, 32), tuple(0.1 * n for n in range(1, channels + 1)), (0.5,) * channels)
    return LoadedModel(net.eval(), preprocess, ("ill", "well", "blank"), "my net", "random")


def _levels(*shape: int) -> np.ndarray:
    return np.random.default_rng(4).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_gray_model_gets_gray_images(tmp_path: Path, workers: int) -> None:
    (tmp_path / "in").mkdir()
    levels = _levels(40, 60)
    Image.fromarray(levels).save(tmp_path / "in/a.png")
    Image.fromarray(_levels(40, 60, 3)).save(tmp_path / "in/b.png")
    loaded = _loaded(1)
    out = tmp_path / "out"
    explain_dataset(
        [str(tmp_path / "in")], out, loaded, device="cpu", workers=workers, batch_size=2, engine="torch"
    )
    rows = {row["sample_id"]: row for row in result_rows(out)}
    assert [row["status"] for row in rows.values()] == ["ok", "ok"]
    view = np.asarray(Image.fromarray(levels).resize((32, 32), Image.Resampling.BILINEAR))
    image = (torch.from_numpy(view.copy()).float() / 255 - 0.1) / 0.5
    grid = CFCAM(loaded.model, "1", engine="torch")(image[None, None]).grid[0].detach().numpy()
    row = rows["a.png"]
    assert grid.max() > 0
    np.testing.assert_allclose(row["grid"], grid, rtol=0, atol=1e-3 * grid.max())
    overlay = np.asarray(Image.open(out / str(row["overlay"])))
    heatmap = fit_heatmap(upsample_grid(grid, (32, 32)), (0, 0, 60, 40), 60, 40)
    wanted = draw_overlay(np.repeat(levels[..., None], 3, axis=2), heatmap).astype(int)
    assert np.abs(overlay - wanted).max() <= 2
    stored = json.loads((out / "run.json").read_text())
    assert (stored["fingerprint"]["preprocess"]["mean"], stored["fingerprint"]["preprocess"]["std"]) == (
        [0.1],
        [0.5],
    )


def test_a_model_of_four_channels_gets_the_bands_of_the_files(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    levels = _levels(40, 60, 4)
    Image.fromarray(levels).save(tmp_path / "in/a.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "in/b.png")
    loaded = _loaded(4)
    out = tmp_path / "out"
    explain_dataset([str(tmp_path / "in")], out, loaded, device="cpu", workers=0, engine="torch")
    rows = {row["sample_id"]: row for row in result_rows(out)}
    assert rows["b.png"]["message"] == (
        "the image has 3 channels (RGB), the model takes 4; give files of 4 bands, such as TIFF"
    )
    images = loaded.preprocess(Image.fromarray(levels))[None]
    wanted = CFCAM(loaded.model, "1", engine="torch")(images)
    np.testing.assert_allclose(
        rows["a.png"]["grid"], wanted.grid[0].detach(), rtol=0, atol=1e-3 * float(wanted.peak)
    )
    heatmap = fit_heatmap(wanted.heatmap[0].detach().numpy(), (0, 0, 60, 40), 60, 40)
    overlay = np.asarray(Image.open(out / str(rows["a.png"]["overlay"]))).astype(int)
    assert np.abs(overlay - draw_overlay(levels[..., :3].copy(), heatmap)).max() <= 2
