"""What a run stored, read back: tables, rows, heatmaps, and the formats of other programs."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import cfcam_gpu
from cfcam_gpu.cfcam.maps import upsample_and_normalise
from cfcam_gpu.dataset import Results, open_results
from cfcam_gpu.dataset.options import EXPORT_FORMATS
from cfcam_gpu.dataset.sources.sample import Sample
from cfcam_gpu.dataset.store.export import export
from cfcam_gpu.dataset.store.schema import COLUMNS
from cfcam_gpu.errors import ConfigError, InputError, MissingPackageError, StoreError
from cfcam_gpu.images.overlay import colorize, fit_heatmap, upsample_grid
from cfcam_gpu.images.preprocess import Preprocess
from tests.helpers.smallnet import make_loaded, photo, run, save

CROPPED = Preprocess((32, 32), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), resize=40)
NAMES = ["a", "bad", "c", "sub/d", "e"]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five samples in parts of two; the second cannot be decoded."""
    folder = tmp_path_factory.mktemp("results")
    sizes = {"a": (60, 45), "c": (31, 77), "d": (45, 45), "e": (5, 3)}
    save(folder / "in", bad=b"", **{name: photo(i, size) for i, (name, size) in enumerate(sizes.items())})
    samples = [
        Sample(f"id/{name}", str(folder / f"in/{Path(name).name}.png"), label=name, name=name)
        for name in NAMES
    ]
    run(samples, folder / "out", model=make_loaded(CROPPED), part_size=2)
    return folder / "out"


@pytest.fixture
def results(out: Path) -> Results:
    return open_results(out)


def test_counts_and_length(results):
    blank = sum(bool(row["blank"]) for row in results.rows())
    assert results.counts() == {"total": 5, "ok": 4, "error": 1, "blank": blank, "missing": 0}
    assert len(results) == 5
    assert results.parts == [0, 1, 2]
    some = results.only([1, 2, 9])
    assert (len(some), some.counts()["missing"]) == (3, 2)
    assert [row["sample_id"] for row in some.rows()] == ["id/c", "id/sub/d", "id/e"]


def test_the_table_has_all_rows_in_order_and_the_columns_asked_for(results):
    table = results.table()
    assert table.column_names == list(COLUMNS)
    assert table["sample_id"].to_pylist() == [f"id/{name}" for name in NAMES]
    assert results.table(["label", "pred"]).column_names == ["label", "pred"]
    assert len(results.only([]).table()) == 0
    with pytest.raises(ConfigError, match="unknown column 'map'; choose one of: sample_id, uri, "):
        results.table(["map"])


def test_rows_and_pandas_hold_the_maps(results):
    rows, frame = list(results.rows()), results.to_pandas()
    assert list(frame.columns) == list(COLUMNS)
    assert rows[1]["grid"] is None
    assert pd.isna(frame["grid"][1])
    for i in (0, 2, 3, 4):
        assert rows[i]["grid"].shape == (8, 8)
        np.testing.assert_array_equal(frame["grid"][i], rows[i]["grid"])
    assert frame.groupby("status").size().to_dict() == {"error": 1, "ok": 4}
    assert list(results.to_pandas(["pred"]).columns) == ["pred"]


def test_pandas_that_is_missing_is_named_with_its_extra(results, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(
        MissingPackageError, match=r"pandas is not installed; run: pip install 'cfcam-gpu\[pandas\]'"
    ):
        results.to_pandas()


@pytest.mark.parametrize("size", [(32, 32), (7, 91), (8, 8), (1, 1)])
def test_heatmaps_are_those_of_the_explainer_at_any_size(results, size):
    for row in results.rows():
        if row["grid"] is None:
            continue
        grid = torch.from_numpy(row["grid"].copy())[None, None]
        expected = upsample_and_normalise(grid, size)[0][0, 0].numpy()
        np.testing.assert_allclose(results.heatmap(row, size), expected, atol=2e-6)
    np.testing.assert_array_equal(results.heatmap("id/a"), results.heatmap(results.row("id/a"), (32, 32)))


@pytest.mark.parametrize(("name", "width", "height"), [("c", 31, 77), ("a", 60, 45), ("e", 5, 3)])
def test_a_heatmap_comes_back_into_the_originals_frame(results, name, width, height):
    shown = results.heatmap(f"id/{name}", "original")
    box = CROPPED.visible_box(width, height)
    assert shown.shape == (height, width)
    assert shown.dtype == np.float32
    expected = fit_heatmap(results.heatmap(f"id/{name}"), box, width, height)
    np.testing.assert_allclose(shown, expected, atol=1e-5)


def test_a_blank_grid_gives_zeros():
    heatmap = upsample_grid(np.zeros((3, 4), np.float32), (5, 6))
    assert heatmap.shape == (5, 6)
    assert not heatmap.any()


def test_what_cannot_be_shown_is_said(results):
    with pytest.raises(InputError, match="sample 'id/bad' has no heatmap: empty file"):
        results.heatmap("id/bad")
    with pytest.raises(InputError, match="has no row of a sample 'id/none'"):
        results.heatmap("id/none")
    for size in ("large", (1, 2, 3), (0, 3), (1.5, 2)):
        with pytest.raises(
            ConfigError, match=r"size must be \(H, W\), two positive integers, 'original' or None"
        ):
            results.heatmap("id/a", size)


def test_a_folder_without_results_is_said(tmp_path):
    with pytest.raises(StoreError, match=r"holds no results: there is no run.json"):
        open_results(tmp_path)


def test_reading_results_needs_no_pytorch(out):
    code = f"""
import sys
from cfcam_gpu.dataset import open_results
results = open_results({str(out)!r})
assert results.heatmap("id/a", "original").shape == (45, 60)
assert "torch" not in sys.modules
"""
    root = Path(cfcam_gpu.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


def arrays(results: Results, to: str, path: Path, **options: Any) -> dict[str, np.ndarray]:
    assert export(results, to, path, **options) == 5
    if to == "npz":
        with np.load(path) as content:
            return dict(content)
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(str(path), mode="r")
    assert dict(group.attrs)["cfcam"] == results.run["fingerprint"]
    return {name: group[name][:] for name in group.array_keys()}


@pytest.mark.parametrize("to", ["npz", "zarr"])
@pytest.mark.parametrize("size", [None, (5, 9)])
def test_arrays_hold_every_row(results, tmp_path, to, size):
    content = arrays(results, to, tmp_path / f"maps.{to}", size=size)
    rows = list(results.rows())
    assert content["heatmap"].shape == (5, *(size or (32, 32)))
    assert content["sample_id"].tolist() == [f"id/{name}" for name in NAMES]
    assert content["status"].tolist() == [row["status"] for row in rows]
    assert content["pred"].tolist() == [-1 if row["pred"] is None else row["pred"] for row in rows]
    assert np.isnan(content["prob"][1])
    for i, row in enumerate(rows):
        grid = np.zeros((8, 8)) if row["grid"] is None else row["grid"]
        np.testing.assert_array_equal(content["grid"][i], grid)
        expected = np.zeros(size or (32, 32)) if row["grid"] is None else results.heatmap(row, size)
        np.testing.assert_array_equal(content["heatmap"][i], expected)


def test_npz_is_a_plain_file_without_pickles(results, tmp_path):
    export(results, "npz", tmp_path / "maps.npz")
    with np.load(tmp_path / "maps.npz", allow_pickle=False) as content:
        assert {name: content[name].dtype.kind for name in ("heatmap", "uri", "blank")} == {
            "heatmap": "f", "uri": "U", "blank": "b",
        }  # fmt: skip
    with zipfile.ZipFile(tmp_path / "maps.npz") as archive:
        assert archive.testzip() is None


def test_png_are_coloured_maps_of_the_originals_size(results, tmp_path):
    assert export(results, "png", tmp_path / "maps", cmap="jet") == 4
    files = sorted(str(path.relative_to(tmp_path / "maps")) for path in (tmp_path / "maps").rglob("*.png"))
    assert files == ["a_heatmap.png", "c_heatmap.png", "e_heatmap.png", "sub/d_heatmap.png"]
    shown = np.asarray(Image.open(tmp_path / "maps/a_heatmap.png"))
    np.testing.assert_array_equal(shown, colorize(results.heatmap("id/a", "original"), "jet"))


def test_fiftyone_files_name_their_samples_and_maps(results, out, tmp_path):
    assert export(results, "fiftyone", tmp_path / "maps") == 4
    samples = json.loads((tmp_path / "maps/samples.json").read_text())["samples"]
    row, entry = results.row("id/sub/d"), samples[2]
    assert [sample["sample_id"] for sample in samples] == ["id/a", "id/c", "id/sub/d", "id/e"]
    assert entry["filepath"] == str(out.parent / "in/d.png")
    assert entry["ground_truth"] == {"_cls": "Classification", "label": "sub/d"}
    prediction = {"_cls": "Classification", "label": row["pred_name"], "confidence": row["prob"]}
    assert entry["prediction"] == prediction
    assert (entry["heatmap"]["_cls"], entry["heatmap"]["map_path"]) == ("Heatmap", "fields/heatmap/sub/d.png")
    gray = Image.open(tmp_path / "maps" / entry["heatmap"]["map_path"])
    assert (gray.mode, gray.size) == ("L", (45, 45))
    np.testing.assert_array_equal(np.asarray(gray), np.rint(results.heatmap(row, "original") * 255))


@pytest.mark.parametrize("to", EXPORT_FORMATS)
def test_an_export_never_touches_what_is_there(results, tmp_path, to):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/mine").touch()
    with pytest.raises(InputError, match="taken exists; name a file or folder that does not"):
        export(results, to, tmp_path / "taken")
    with pytest.raises(InputError, match="holds no finished part"):
        export(results.only([]), to, tmp_path / "new")


def test_mistakes_of_an_export_are_said(results, tmp_path, monkeypatch):
    with pytest.raises(
        ConfigError, match="unknown format 'hdf5'; choose one of: npz, zarr, fiftyone, png, csv"
    ):
        export(results, "hdf5", tmp_path / "new")
    with pytest.raises(ConfigError, match="unknown colour map 'rainbow'"):
        export(results, "png", tmp_path / "new", cmap="rainbow")
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(
        MissingPackageError, match=r"zarr is not installed; run: pip install 'cfcam-gpu\[zarr\]'"
    ):
        export(results, "zarr", tmp_path / "new")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write .*file/new: "):
        export(results, "png", tmp_path / "file/new")
