"""`cfcam demo`: real photos, a contact sheet and a page."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cfcam_gpu
from cfcam_gpu.cli import demo_photos, demo_pictures
from cfcam_gpu.dataset import RunOptions, explain_dataset
from cfcam_gpu.dataset.store.results import open_results
from tests.helpers.command import FAILED, OK, SKIPPED, Outcome, cfcam
from tests.helpers.tinynet import files


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path]:
    out = tmp_path_factory.mktemp("demo") / "pictures"
    return cfcam("demo", "--out", str(out)), out


def test_the_demo_explains_real_photos_with_readable_names(demo_run):
    outcome, out = demo_run
    assert outcome.status == OK
    for photo_name, label in (
        ("chelsea.png", "Egyptian cat"),
        ("coffee.png", "espresso"),
        ("camera.png", "tripod"),
    ):
        assert re.search(
            rf"{photo_name}\s+{label}\s+\d+\.\d%\s+\d+\s+\d+\.\d%\s+no\s+\S+_heatmap.png", outcome.out
        )
    assert "explained 8 of 8 images" in outcome.out
    sheet, report = out / "contact_sheet.png", out / "report.html"
    assert outcome.out.splitlines()[-2:] == [f"contact sheet: {sheet}", f"report: {report}"]
    assert "Egyptian cat" in report.read_text()
    kinds = ("cfcam", "heatmap", "original")
    assert files(out) == sorted(
        [
            "contact_sheet.png",
            "report.html",
            *(f"{name}_{k}.png" for name in demo_photos.PHOTOS for k in kinds),
        ]
    )


def test_the_contact_sheet_is_a_page_of_moderate_size(demo_run):
    _, out = demo_run
    sheet = out / "contact_sheet.png"
    width, height = Image.open(sheet).size
    assert 1200 <= width <= 1800
    assert 900 <= height <= 1800
    assert sheet.stat().st_size < 2_000_000


def test_the_sheet_shows_cfcam_beside_cfcam_sharp(demo_run, lite0, tmp_path, monkeypatch):
    """The overlay of the second method is the one that a run of its own writes."""
    shown: dict[str, Any] = {}

    def draw(entries, _strip, **texts):
        shown.update(texts, entries=entries)
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr(demo_pictures, "draw_contact_sheet", draw)
    results = open_results(demo_run[1])
    monkeypatch.setattr(demo_pictures, "write_atomically", lambda _path, _content: None)
    demo_pictures.write_pictures(lite0, results)
    assert shown["headings"] == ("photo", "cfcam", "cfcam-sharp")
    samples = demo_photos.find_photos()[0][:1]
    explain_dataset(samples, tmp_path / "sharp", lite0, RunOptions(method="cfcam-sharp"))
    (row,) = open_results(tmp_path / "sharp").rows()
    (cfcam_row,) = [one for one in results.rows() if one["sample_id"] == samples[0].sample_id]
    first = shown["entries"][[one["sample_id"] for one in results.rows()].index(cfcam_row["sample_id"])]
    written = np.asarray(Image.open(tmp_path / "sharp" / row["overlay"]), dtype=int)
    assert np.abs(np.asarray(first.overlay, dtype=int) - written).max() <= 2
    assert np.abs(np.asarray(first.heatmap, dtype=int) - written).mean() > 2


def test_the_last_row_of_the_sheet_answers_each_question_on_its_half(lite0, photos):
    with cfcam_gpu.CFCAM(lite0.model) as cam:
        strip = demo_pictures.two_questions(lite0, cam, photos[:2])
    (picture, _), (cat, cat_caption), (espresso, espresso_caption) = strip.pictures
    assert picture.size == cat.size == espresso.size == (448, 224)
    assert (cat_caption, espresso_caption) == ("Where is the Egyptian cat?", "Where is the espresso?")
    plain = np.asarray(picture, dtype=float)
    brightness = [
        np.asarray(answer, dtype=float).mean((0, 2)) - 0.6 * plain.mean((0, 2)) for answer in (cat, espresso)
    ]
    (cat_left, cat_right), (espresso_left, espresso_right) = (
        (columns[:224].mean(), columns[224:].mean()) for columns in brightness
    )
    assert cat_left > 2 * cat_right
    assert espresso_right > 2 * espresso_left


def test_the_demo_names_the_extra_that_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "skimage" else find_spec(name, *rest)
    )
    outcome = cfcam("demo")
    assert outcome.status == FAILED
    (line,) = outcome.err.splitlines()
    assert line == (
        "error: the demo's photos come with the package skimage, which is not installed; "
        "run: pip install 'cfcam-gpu[demo]'"
    )


def test_the_demo_reports_a_photo_that_is_gone(tmp_path, monkeypatch):
    kept = {name: demo_photos.PHOTOS[name] for name in ("cat", "espresso")}
    monkeypatch.setattr(demo_photos, "PHOTOS", {**kept, "gone": ("skimage", "data/gone.png")})
    outcome = cfcam("demo", "--out", str(tmp_path / "out"), "--json")
    assert outcome.status == SKIPPED
    assert outcome.err == "skipped gone: the installed skimage does not contain data/gone.png\n"
    content = json.loads(outcome.out)
    assert content["counts"] == {"ok": 2, "skipped": 1, "blank": 0}
    assert content["contact_sheet"] == str(tmp_path / "out/contact_sheet.png")
