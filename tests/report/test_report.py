"""The report: which samples it shows, what it says of them, and that nothing in a file name or label runs."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from cfcam_gpu.config import CFCAMConfig
from cfcam_gpu.dataset.sources.sample import Sample
from cfcam_gpu.dataset.store.results import open_results
from cfcam_gpu.dataset.store.store import Store
from cfcam_gpu.errors import ConfigError, InputError, StoreError
from cfcam_gpu.explainer import CFCAM
from cfcam_gpu.models import LoadedModel
from cfcam_gpu.report import write_report
from cfcam_gpu.report.payload import to_json
from cfcam_gpu.report.sampling import choose_rows
from cfcam_gpu.report.survey import BLANK, ERROR, OK, Judge, survey_run

GRID = (7, 7)
HOSTILE_NAME = "<img src=x onerror=window.hacked=1>.png"
HOSTILE_LABEL = "</script><script>window.hacked=1</script><!--"
LABELS = ("Egyptian cat", "espresso", "moped", "missile", None, HOSTILE_LABEL, "daisy")

Row = dict[str, Any]


def write_store(out: Path, rows: list[Row], names: list[str] | None = None, part_size: int = 8) -> Path:
    """A finished run of these rows."""
    store = Store(out)
    store.make()
    samples = [Sample(row["sample_id"], row["uri"], row.get("label")) for row in rows]
    plan = store.write_plan(samples, part_size)
    for part in range(plan.parts):
        start, stop = plan.bounds(part)
        store.write_part(part, rows[start:stop], GRID)
    store.write_run(
        {
            "fingerprint": {
                "config": asdict(CFCAMConfig()),
                "model": "efficientnet-lite0",
                "layer": "_swish",
            },
            "shard_size": part_size,
            "grid": list(GRID),
            "size": [224, 224],
            "class_names": names,
            "preprocess": {"size": [224, 224], "mean": [0.5] * 3, "std": [0.5] * 3, "resize": 256},
            "info": {"engine": "torch", "device": "cpu", "command": ["cfcam", "explain", "<my photos>"]},
        }
    )
    return out


def made_row(number: int, **changes: Any) -> Row:
    """An explained sample whose original does not exist."""
    grid = np.random.default_rng(number).random(GRID, np.float32)
    fields = {
        "sample_id": f"made/{number:05}.jpg",
        "uri": f"/nowhere/{number:05}.jpg",
        "status": "ok",
        "target": number % 5,
        "target_name": f"class {number % 5}",
        "target_prob": 0.5,
        "pred": number % 5,
        "pred_name": f"class {number % 5}",
        "prob": 0.5,
        "n_clusters": 1,
        "noise_fraction": 0.25,
        "blank": False,
        "grid": grid,
        "heatmap_max": float(grid.max()),
        "width": 400,
        "height": 300,
        "box": [0, 0, 400, 300],
    }
    return fields | changes


def failed_row(number: int, stage: str, kind: str, message: str, **changes: Any) -> Row:
    fields = {"sample_id": f"bad/{number:03}.jpg", "uri": f"/nowhere/bad/{number:03}.jpg", "status": "error"}
    return fields | {"stage": stage, "error_type": kind, "message": message} | changes


def photo_rows(lite0: LoadedModel, photos: list[Image.Image], folder: Path) -> list[Row]:
    """Seven photos, whole and in two crops, explained by the packaged model; files below `folder`."""
    rows: list[Row] = []
    with CFCAM(lite0.model) as cam:
        for part in range(3):
            images = [crop(photo, part) for photo in photos]
            batch = torch.stack([lite0.preprocess(image) for image in images])
            result = cam(batch)
            for i, image in enumerate(images):
                name = HOSTILE_NAME if (part, i) == (2, 5) else f"photo-{i}-{part}.jpg"
                path = folder / f"set {part}" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path, quality=90) if path.suffix == ".jpg" else image.save(path)
                rows.append(explained(lite0, result, i, image, path, f"set {part}/{name}", LABELS[i]))
    return rows


def crop(photo: Image.Image, part: int) -> Image.Image:
    """0: whole; 1: the left 70 %; 2: the right 70 %, mirrored."""
    width, height = photo.size
    if part == 0:
        return photo
    if part == 1:
        return photo.crop((0, 0, int(0.7 * width), height))
    return photo.crop((int(0.3 * width), 0, width, height)).transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def explained(
    lite0: LoadedModel, result: Any, i: int, image: Image.Image, path: Path, sample_id: str, label: str | None
) -> Row:
    probabilities = result.logits[i].softmax(0)
    pred = int(probabilities.argmax())
    grid = result.grid[i].numpy()
    return {
        "sample_id": sample_id,
        "uri": str(path),
        "status": "ok",
        "label": label,
        "target": pred,
        "target_name": lite0.class_name(pred),
        "target_prob": float(probabilities[pred]),
        "pred": pred,
        "pred_name": lite0.class_name(pred),
        "prob": float(probabilities[pred]),
        "n_clusters": int(result.n_clusters[i]),
        "noise_fraction": float(result.noise_fraction[i]),
        "blank": bool(result.blank[i]),
        "grid": grid,
        "heatmap_max": upsampled_peak(grid),
        "width": image.width,
        "height": image.height,
        "box": list(lite0.preprocess.visible_box(*image.size)),
    }


def upsampled_peak(grid: np.ndarray) -> float:
    return float(interpolate(torch.from_numpy(grid)[None, None], (224, 224), mode="bilinear").max())


def demo_rows(lite0: LoadedModel, photos: list[Image.Image], folder: Path) -> list[Row]:
    """Photos and what can go wrong with them: three errors, a blank map, an original that is gone."""
    rows = photo_rows(lite0, photos, folder)
    blank = rows[3] | {
        "sample_id": "blank map.jpg",
        "target": 1,
        "target_name": "goldfish",
        "target_prob": 1e-6,
        "grid": np.zeros(GRID, np.float32),
        "blank": True,
        "heatmap_max": 0.0,
    }
    gone = rows[7] | {"sample_id": "moved away.jpg", "uri": str(folder / "moved away.jpg")}
    seen = Path(rows[4]["uri"])
    return [
        *rows,
        blank,
        gone,
        failed_row(1, "decode", "SyntaxError", "truncated or corrupt: broken data stream", label="daisy"),
        failed_row(2, "read", "FileNotFoundError", "the file does not exist"),
        failed_row(
            3, "explain", "NonFinite", "activations contain NaN or Inf", uri=str(seen), width=512, height=512
        ),
    ]


@pytest.fixture(scope="module")
def demo(lite0: LoadedModel, photos: list[Image.Image], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    names = list(lite0.class_names or ())
    return write_store(folder / "results", demo_rows(lite0, photos, folder / "photos"), names)


def made_store(out: Path, count: int, change: Callable[[int], Row] = lambda number: {}) -> Path:
    return write_store(out, [made_row(i, **change(i)) for i in range(count)], part_size=64)


def embedded(page: Path, name: str = "index") -> Any:
    """The JSON of a data element of the page."""
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page.read_text("utf-8"))
    assert found, f"no element {name}"
    return json.loads(found[1])


def column(index: dict[str, Any], name: str) -> list[Any]:
    return [row[index["fields"].index(name)] for row in index["rows"]]


# What the page holds


def test_a_small_run_is_one_file_with_every_row_and_its_picture(demo: Path):
    page = write_report(demo, demo.parent / "one.html")
    index, block = embedded(page), embedded(page, "block-0")
    assert index["sources"] == []
    assert not (demo.parent / "one_files").exists()
    rows = list(open_results(demo).rows())
    assert column(index, "sample_id") == [row["sample_id"] for row in rows]
    assert column(index, "message")[-1] == "activations contain NaN or Inf"
    pictures = [picture is not None for picture in block["pictures"]]
    assert pictures == [True] * 22 + [False, False, False, True]
    assert block["notes"][22:25] == ["the file does not exist", *["it could not be decoded"] * 2]
    first = np.frombuffer(base64.b64decode(block["grids"][0]), "<f4").reshape(GRID)
    np.testing.assert_array_equal(first, rows[0]["grid"])
    assert block["grids"][-1] is None


def test_the_picture_is_the_upright_original_made_smaller(tmp_path: Path):
    photo = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.new("RGB", (1000, 500), "red").save(photo, exif=exif)
    store = write_store(tmp_path / "out", [made_row(0, uri=str(photo), width=500, height=1000)])
    url = embedded(write_report(store), "block-0")["pictures"][0]
    data = base64.b64decode(url.removeprefix("data:image/jpeg;base64,"))
    with Image.open(io.BytesIO(data)) as picture:
        assert (picture.format, picture.size) == ("JPEG", (320, 640))


def test_an_original_of_another_size_is_not_shown_under_a_map_that_is_not_its_own(tmp_path: Path):
    photo = tmp_path / "photo.png"
    Image.new("RGB", (60, 40)).save(photo)
    store = write_store(tmp_path / "out", [made_row(0, uri=str(photo))])
    block = embedded(write_report(store), "block-0")
    assert block["pictures"] == [None]
    assert block["notes"] == ["it has changed since: it was 400 × 300 pixels and is 60 × 40"]  # noqa: RUF001


def test_the_default_place_is_in_the_results_folder_and_a_second_report_replaces_it(tmp_path: Path):
    store = made_store(tmp_path / "out", 3)
    first = write_report(store)
    assert first == tmp_path / "out" / "report.html"
    before = first.read_bytes()
    assert write_report(store).read_bytes() == before


@pytest.mark.parametrize(("count", "folder"), [(7, False), (8, True)])
def test_above_the_limit_of_one_file_data_lie_in_a_folder_beside_it(tmp_path: Path, count: int, folder: bool):
    store = made_store(tmp_path / "out", count)
    page = write_report(store, tmp_path / "a #1 50%.html", self_contained=7)
    index = embedded(page)
    assert bool(index["sources"]) == folder
    assert (tmp_path / "a #1 50%_files").is_dir() == folder
    if folder:
        (source,) = index["sources"]
        assert source.startswith("a%20%231%2050%25_files/r-")
        text = (tmp_path / unquote(source)).read_text()
        assert text.startswith("cfcamBlock(0,{")
        assert len(json.loads(text.removeprefix("cfcamBlock(0,").removesuffix(");\n"))["grids"]) == 8


def test_only_its_own_older_files_are_removed(tmp_path: Path):
    store, page = made_store(tmp_path / "out", 9), tmp_path / "report.html"
    write_report(store, page, self_contained=1, limit=5)
    foreign = tmp_path / "report_files" / "mine.txt"
    foreign.write_text("keep")
    write_report(store, page, self_contained=1, limit=6)
    folders = [path for path in (tmp_path / "report_files").iterdir() if path.is_dir()]
    assert len(folders) == 1
    assert embedded(page)["sources"] == [f"report_files/{folders[0].name}/data-000.js"]
    assert foreign.read_text() == "keep"
    write_report(store, page)  # all in one file again
    assert list((tmp_path / "report_files").iterdir()) == [foreign]
    foreign.unlink()
    write_report(store, page, self_contained=1)
    write_report(store, page)
    assert not (tmp_path / "report_files").exists()


def test_a_run_begun_anew_takes_the_older_runs_report_away(tmp_path: Path):
    out = made_store(tmp_path / "out", 9)
    elsewhere = write_report(out, tmp_path / "kept.html", self_contained=1)
    page = write_report(out, self_contained=1)
    assert page.exists()
    Store(out).wipe([])
    assert not page.exists()
    assert not (out / "report_files").exists()
    assert elsewhere.exists()
    assert (tmp_path / "kept_files").is_dir()


def test_blocks_hold_a_hundred_samples_each(tmp_path: Path):
    done: list[tuple[int, int]] = []
    store = made_store(tmp_path / "out", 205)
    page = write_report(store, self_contained=0, on_progress=lambda *counts: done.append(counts))
    assert len(embedded(page)["sources"]) == 3
    assert done == [(100, 205), (200, 205), (205, 205)]


# Which samples


def test_all_rows_are_shown_where_they_fit():
    assert choose_rows(np.zeros(5, np.int8), np.zeros(5, np.int32), 5).tolist() == [0, 1, 2, 3, 4]


def test_errors_and_blank_maps_go_first_and_classes_keep_their_shares():
    kinds = np.array([OK] * 900 + [ERROR] * 10 + [BLANK] * 10, np.int8)
    preds = np.array([0] * 600 + [1] * 297 + [2] * 3 + [-1] * 10 + [1] * 10, np.int32)
    chosen = choose_rows(kinds, preds, 110)
    assert len(chosen) == len(set(chosen.tolist())) == 110
    assert (np.diff(chosen) > 0).all()
    assert set(range(900, 920)) <= set(chosen.tolist())
    counts = np.bincount(preds[chosen[chosen < 900]], minlength=3)
    assert abs(counts[0] - 60) <= 2
    assert abs(counts[1] - 30) <= 2
    assert counts[2] >= 1


def test_many_errors_leave_half_of_the_room_to_the_rest():
    kinds = np.array([ERROR] * 500 + [OK] * 500, np.int8)
    chosen = choose_rows(kinds, np.zeros(1000, np.int32), 100)
    assert (kinds[chosen] == ERROR).sum() == 50


def test_room_that_the_rest_does_not_need_goes_to_errors():
    kinds = np.array([ERROR] * 500 + [OK] * 10, np.int8)
    chosen = choose_rows(kinds, np.zeros(510, np.int32), 100)
    assert (kinds[chosen] == ERROR).sum() == 90


def test_every_class_has_a_row_before_any_has_two():
    preds = np.array([0] * 990 + list(range(1, 11)), np.int32)
    chosen = choose_rows(np.zeros(1000, np.int8), preds, 11)
    assert sorted(preds[chosen].tolist()) == list(range(11))


def test_the_seed_decides_the_choice():
    kinds, preds = np.zeros(1000, np.int8), np.arange(1000, dtype=np.int32) % 7
    first, again, other = (choose_rows(kinds, preds, 50, seed).tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_choice_is_said_on_the_page_with_its_numbers(tmp_path: Path):
    def change(number: int) -> Row:
        if number < 4:
            return failed_row(number, "decode", "ImageError", "broken")
        return {"blank": True, "grid": np.zeros(GRID, np.float32), "heatmap_max": 0.0} if number < 7 else {}

    store = made_store(tmp_path / "out", 60, change)
    text = write_report(store, limit=20, seed=5).read_text()
    assert (
        "This page shows 20 of 60 samples: 4 of 4 errors, 3 of 3 blank maps, 13 of 53 other explained samples; "
        "drawn by predicted class and status, errors and blank maps first (seed 5)."
    ) in text
    assert "<b>60</b> samples" in text
    assert "<b>3</b> of them blank" in text


def test_an_unfinished_run_is_said_to_be(tmp_path: Path):
    store = made_store(tmp_path / "out", 130)
    (store / "shards" / "part-00001.parquet").unlink()
    text = write_report(store).read_text()
    assert "The run is not finished: 66 of 130 samples are done so far." in text


# What it says of the whole run


@pytest.mark.parametrize(
    ("label", "names", "verdict"),
    [
        ("1", ["cat", "dog"], True),
        ("0", ["cat", "dog"], False),
        (" Dog ", ["cat", "dog"], True),
        ("cat", ["cat", "dog"], False),
        ("wolf", ["cat", "dog"], None),
        ("2", ["cat", "dog"], None),
        ("-1", ["cat", "dog"], None),
        ("1", None, True),
        ("dog", None, None),
        (None, ["cat", "dog"], None),
    ],
)
def test_labels_are_an_index_or_a_name(label: str | None, names: list[str] | None, verdict: bool | None):
    assert Judge(names)(label, 1, "dog" if names else "class 1") is verdict


def test_classes_of_the_same_name_are_not_told_apart_by_a_name():
    assert Judge(["crane", "heron", "crane"])("crane", 2, "crane") is True


def test_figures_count_the_whole_run(demo: Path):
    survey = survey_run(open_results(demo))
    rows = list(open_results(demo).rows())
    assert (survey.count(OK), survey.count(BLANK), survey.count(ERROR)) == (22, 1, 3)
    assert survey.unmatched == 3
    judged = [row for row in rows if row["status"] == "ok" and row["label"] not in (None, HOSTILE_LABEL)]
    assert survey.judged == len(judged)
    assert survey.correct == sum(row["label"] == row["pred_name"] for row in judged)
    assert survey.failures == {
        ("decode", "SyntaxError"): 1,
        ("read", "FileNotFoundError"): 1,
        ("explain", "NonFinite"): 1,
    }
    assert survey.peak == max(row["heatmap_max"] or 0 for row in rows)


def test_the_mean_heatmap_is_the_mean_of_the_heatmaps(demo: Path):
    results = open_results(demo)
    index = embedded(write_report(demo))
    espresso = next(item for item in index["classes"] if item["name"] == "espresso")
    rows = [row for row in results.rows() if row["target_name"] == "espresso"]
    assert espresso["count"] == len(rows) == 3
    mean = np.frombuffer(base64.b64decode(espresso["mean"]), "<f4").reshape(GRID)
    expected = np.mean([results.heatmap(row) for row in rows], axis=0)
    got = interpolate(torch.from_numpy(mean.copy())[None, None], (224, 224), mode="bilinear")[0, 0]
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-5)


def test_a_class_with_blank_maps_only_has_no_mean(demo: Path):
    goldfish = next(item for item in embedded(write_report(demo))["classes"] if item["name"] == "goldfish")
    assert (goldfish["count"], goldfish["blank"], goldfish["mean"]) == (0, 1, None)


# Nothing in the data runs


def test_hostile_text_stays_inside_its_json(demo: Path):
    text = write_report(demo).read_text("utf-8")
    assert text.count("</script>") == 3  # index, one block, the page's own
    assert "<!--" not in text
    assert "<img src=x" not in text
    assert f"set 2/{HOSTILE_NAME}" in column(embedded(demo / "report.html"), "sample_id")
    assert HOSTILE_LABEL in column(embedded(demo / "report.html"), "label")
    assert "cfcam explain &#39;&lt;my photos&gt;&#39;" in text


def test_a_hostile_class_name_and_folder_are_escaped(tmp_path: Path):
    out = tmp_path / "<b>&run"
    write_store(out, [made_row(0, pred_name=HOSTILE_LABEL, target_name=HOSTILE_LABEL)], [HOSTILE_LABEL])
    text = write_report(out).read_text("utf-8")
    assert "<h1>CF-CAM report: &lt;b&gt;&amp;run</h1>" in text
    assert text.count("</script>") == 3


def test_the_page_allows_only_its_own_script_and_asks_for_nothing(demo: Path):
    text = write_report(demo).read_text("utf-8")
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1])
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}' file: 'self'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"https?://", text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("</script>", '"\\u003c/script\\u003e"'),
        ("<!-- & \u2028", '"\\u003c!-- \\u0026 \\u2028"'),
        ({"a": [float("nan"), float("inf"), 1.5]}, '{"a":[null,null,1.5]}'),
    ],
)
def test_json_is_safe_inside_html_and_javascript(value: Any, text: str):
    assert to_json(value) == text


# Mistakes


def test_a_folder_without_results_is_refused(tmp_path: Path):
    with pytest.raises(StoreError, match=r"holds no results"):
        write_report(tmp_path)


def test_a_run_without_a_finished_part_is_refused(tmp_path: Path):
    store = made_store(tmp_path / "out", 1)
    (store / "shards" / "part-00000.parquet").unlink()
    with pytest.raises(
        InputError, match=r"holds no finished results yet; let cfcam explain finish its first"
    ):
        write_report(store)


def test_a_damaged_part_is_named(tmp_path: Path):
    store = made_store(tmp_path / "out", 1)
    (store / "shards" / "part-00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(StoreError, match=r"part-00000\.parquet cannot be read"):
        write_report(store)


def test_a_folder_in_the_place_of_the_page_is_refused(tmp_path: Path):
    store = made_store(tmp_path / "out", 1)
    with pytest.raises(InputError, match=r"is a folder; give the name of an HTML file"):
        write_report(store, tmp_path)


def test_a_page_that_cannot_be_written_is_named(tmp_path: Path):
    store = made_store(tmp_path / "out", 1)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write the report '.*page\.html': "):
        write_report(store, tmp_path / "file" / "page.html")


def test_a_limit_of_nothing_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"at least 1 sample, got a limit of 0"):
        write_report(made_store(tmp_path / "out", 1), limit=0)
