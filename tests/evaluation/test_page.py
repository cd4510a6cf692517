# ruff: noqa: RUF001 (the minus and multiplication signs of the page)
"""The page of an evaluation: in a real browser nothing is asked of the network or runs from the data."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cfcam_gpu.errors import InputError
from cfcam_gpu.evaluation.page import write_page
from cfcam_gpu.evaluation.plots import plot_file, write_plots
from cfcam_gpu.evaluation.summary import summarise
from cfcam_gpu.metrics.options import MetricOptions
from tests.helpers.browser import PageReader, axe_violations
from tests.helpers.evaluation_tables import COLUMNS, METHODS, VIEW, as_table, failure, made_rows

pytest.importorskip("matplotlib", reason="needs matplotlib: pip install -e '.[plots]'")


HOSTILE = "<img src=x onerror=window.hacked=1>$\\frac{$.jpg"

HOSTILE_MESSAGE = "</script><script>window.hacked=1</script>"


def make(out: Path, rows: list[dict[str, Any]], *, plots: bool = False, **arguments: Any) -> Path:
    """An evaluation's folder with a summary, a page and, with `plots`, plots; the page."""
    table = as_table(rows)
    summary = summarise(table, COLUMNS, options=MetricOptions(), **arguments)
    out.mkdir(exist_ok=True)
    (out / "summary.json").write_text(json.dumps(summary, allow_nan=False))
    fingerprint = {
        "model": "efficientnet-lite0",
        "layer": "<b>_swish</b>",
        "methods": {"cfcam:upstream": {"config": {"min_samples_fraction_and_more_of_it": 0.05}}},
    }
    run = {"format": 1, "fingerprint": fingerprint, "info": {"command": ["cfcam", "evaluate", "<my photos>"]}}
    (out / "evaluation.json").write_text(json.dumps(run))
    if plots:
        write_plots(summary, table, out, VIEW)
    return write_page(out)


@pytest.fixture(scope="module")
def folder(photos: list[Image.Image], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 images, the first seven of them photos, one with a hostile name; some blank maps; three failures."""
    out = tmp_path_factory.mktemp("evaluation")
    rows = made_rows(40)
    for i, photo in enumerate(photos):
        photo.save(out / f"{i}.png")
        for r in rows[3 * i : 3 * i + 3]:
            r["uri"] = str(out / f"{i}.png")
    for r in rows[:3]:
        r |= {
            "sample_id": HOSTILE,
            "target_name": "日本 <b>\n",
            "blank": True,
            "grid": np.zeros((7, 7), np.float32),
        }
    failures = [failure(0), failure(1), failure(2, "explain", HOSTILE_MESSAGE, method="cfcam")]
    cost = {"gradcam": 20.0, "cfcam": 10.0, "random": 25.0}
    make(out / "out", [*rows, *failures], plots=True, cost=cost)
    return out / "out"


def test_the_plots_are_pictures_that_fit_a_page(folder: Path):
    for name in ("curves", "bars", "grid"):
        for theme, light in (("light", True), ("dark", False)):
            with Image.open(folder / "plots" / plot_file(name, theme)) as picture:
                assert 600 < picture.width < 2400
                gray = np.asarray(picture.convert("L"))
                assert gray.std() > 5  # something is drawn
                assert bool(np.median(gray[0]) > 128) is light


@pytest.mark.parametrize(
    ("rows", "note"),
    [
        ([], "There is no baseline"),
        ([failure(0)], "Failed images: 1."),
        (made_rows(1), "fewer than 30 images"),
        (made_rows(2, ("cfcam",)), "There is no baseline"),
        (made_rows(2, ("gradcam", "cfcam")), "random explained no image"),
    ],
    ids=["no rows", "only failures", "one image", "no baseline", "a method that failed"],
)
def test_pages_about_little(rows: list[dict[str, Any]], note: str, tmp_path: Path):
    page = make(tmp_path / "out", rows, methods=METHODS if "random" in note else None).read_text()
    assert note in page
    assert "No plots were made" in page
    assert "NaN" not in page


def test_old_plots_do_not_outlive_their_numbers(tmp_path: Path):
    (tmp_path / "out" / "plots").mkdir(parents=True)
    for name in ("bars", "curves", "grid"):
        (tmp_path / "out" / "plots" / f"{name}.png").touch()
    page = make(tmp_path / "out", [failure(0)], plots=True).read_text()
    assert "No plots were made" in page
    assert not list((tmp_path / "out" / "plots").iterdir())


def test_a_folder_without_an_evaluation_is_told_from_a_broken_one(tmp_path: Path):
    with pytest.raises(InputError, match=r"holds no summary\.json; let cfcam evaluate"):
        write_page(tmp_path)
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(InputError, match=r"summary\.json cannot be read .*evaluate again with --overwrite"):
        write_page(tmp_path)


class Reader(PageReader):
    """The page, which is one file: it loads nothing but itself."""

    def __init__(self, browser: Any, file: Path, **context: Any) -> None:
        self.address = file.as_uri()
        super().__init__(browser, self.address, **context)

    def allows(self, url: str) -> bool:
        return url == self.address or url.startswith("data:")

    def methods(self, table: str = "means") -> list[str]:
        names: list[str] = self.page.locator(f"#{table} tbody th").all_text_contents()
        return names

    def sort(self, heading: str, table: str = "means") -> None:
        self.page.locator(f"#{table} thead").get_by_role("button", name=heading).click()


@pytest.fixture
def reader(browser: Any, folder: Path) -> Iterator[Reader]:
    opened = Reader(browser, folder / "report.html")
    yield opened
    assert opened.problems == []
    opened.context.close()


def test_names_from_the_data_are_text(reader: Reader):
    assert HOSTILE_MESSAGE in reader.page.locator("#failures").text_content()
    assert "layer <b>_swish</b>" in reader.page.locator(".model").text_content()
    assert "cfcam evaluate '<my photos>'" in reader.page.locator("#run").text_content()
    assert reader.page.evaluate("window.hacked") is None


def test_cells_hold_mean_interval_number_and_mark(reader: Reader, folder: Path):
    summary = json.loads((folder / "summary.json").read_text())
    cell = reader.page.locator("#means tbody tr", has_text="cfcam").locator("td").nth(1)
    entry = summary["methods"]["cfcam"]["deletion_black_auc"]
    assert f"{entry['mean']:.3f}[{entry['low']:.3f}, {entry['high']:.3f}]" in cell.text_content()
    assert cell.get_by_role("img", name="better than gradcam").text_content() == "▲"
    assert "n = 20" in reader.page.locator("#means tbody tr", has_text="random").text_content()  # masks
    difference = reader.page.locator("#differences tbody tr", has_text="random").locator("td").nth(1)
    assert "−0.2" in difference.text_content()
    assert difference.get_by_role("img", name="better than gradcam").is_visible()
    assert reader.methods("differences") == ["cfcam", "random"]


def test_cost_stands_beside_the_baselines(reader: Reader):
    assert "0.50 × gradcam" in reader.page.locator("#means tbody tr", has_text="cfcam").text_content()


def test_headings_sort_and_sort_back(reader: Reader):
    assert reader.methods() == list(METHODS)
    reader.sort("deletion black AUC")
    assert reader.methods() == ["random", "cfcam", "gradcam"]
    assert reader.page.locator("#means th[aria-sort]").get_attribute("aria-sort") == "ascending"
    reader.sort("deletion black AUC")
    assert reader.methods() == ["gradcam", "cfcam", "random"]
    reader.sort("method")
    assert reader.methods() == ["cfcam", "gradcam", "random"]
    assert reader.page.locator("#means th[aria-sort]").count() == 1


def test_rows_without_a_value_stay_last(browser: Any, tmp_path: Path):
    rows = made_rows(3, METHODS[1:])
    reader = Reader(browser, make(tmp_path / "out", rows, methods=METHODS))
    for _ in range(2):
        reader.sort("average drop")
        assert reader.methods()[-1] == "gradcam"
    assert reader.problems == []
    reader.context.close()


def test_plots_are_in_the_page_with_words_for_them(reader: Reader):
    pictures = reader.page.locator(".plot img:visible")
    assert pictures.count() == 3
    for i in range(3):
        assert pictures.nth(i).evaluate("node => node.decode().then(() => node.naturalWidth)") > 600
        assert len(pictures.nth(i).get_attribute("alt")) > 30


def test_definitions_have_their_sources(reader: Reader):
    text = reader.page.locator("#definitions").text_content()
    for part in ("deletion_black_auc", "Petsiuk", "lower is better", "arXiv 1610.02391", "arXiv 2504.00060"):
        assert part in text


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 380)])
def test_axe_finds_no_violation(browser: Any, folder: Path, scheme: str, width: int):
    viewport = {"width": width, "height": 900}
    reader = Reader(browser, folder / "report.html", color_scheme=scheme, viewport=viewport)
    reader.sort("blank")
    assert axe_violations(reader.page) == []
    assert reader.page.evaluate("document.documentElement.scrollWidth") <= width  # only the tables scroll
    assert reader.problems == []
    reader.context.close()


def shown_theme(reader: Reader) -> list[str]:
    """The theme of each plot that can be seen."""
    return reader.page.eval_on_selector_all(
        ".plot img", "nodes => nodes.filter(node => node.checkVisibility()).map(node => node.className)"
    )


@pytest.mark.parametrize(("scheme", "other"), [("light", "dark"), ("dark", "light")])
def test_plots_follow_the_theme_of_the_system_and_of_the_button_and_are_printed_light(
    browser: Any, folder: Path, scheme: str, other: str
):
    reader = Reader(browser, folder / "report.html", color_scheme=scheme)
    assert shown_theme(reader) == [scheme] * 3
    reader.page.click("#theme")
    assert shown_theme(reader) == [other] * 3
    for colours in ("light", "dark"):
        reader.page.emulate_media(media="print", color_scheme=colours)
        assert shown_theme(reader) == ["light"] * 3
    reader.context.close()


def test_plots_of_one_theme_keep_their_white_ground_in_the_dark(browser: Any, folder: Path, tmp_path: Path):
    out = tmp_path / "older"
    shutil.copytree(folder, out)
    for path in (out / "plots").glob("*-dark.png"):
        path.unlink()
    reader = Reader(browser, write_page(out), color_scheme="dark")
    assert shown_theme(reader) == [""] * 3
    ground = "node => getComputedStyle(node).backgroundColor"
    assert reader.page.eval_on_selector(".plot", ground) == "rgb(255, 255, 255)"
    reader.context.close()
