# ruff: noqa: RUF001 (the minus and multiplication signs of the page)
"""The plots and the page of an evaluation: in a real browser nothing is asked of the network or runs from the data."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cfcam_gpu.errors import ConfigError, InputError, ModelError
from cfcam_gpu.evaluation.axes import axis
from cfcam_gpu.evaluation.drawing import draw_bars, draw_curves, shown
from cfcam_gpu.evaluation.gallery import gallery
from cfcam_gpu.evaluation.page import write_page
from cfcam_gpu.evaluation.plots import write_plots
from cfcam_gpu.evaluation.summary import summarise
from cfcam_gpu.images.overlay import draw_overlay, upsample_grid
from cfcam_gpu.images.preprocess import Preprocess
from cfcam_gpu.metrics.options import MetricOptions
from tests.helpers.evaluation_tables import COLUMNS, as_table, failure, made_rows, row

pytest.importorskip("matplotlib", reason="needs matplotlib: pip install -e '.[plots]'")

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
HOSTILE = "<img src=x onerror=window.hacked=1>$\\frac{$.jpg"
HOSTILE_MESSAGE = "</script><script>window.hacked=1</script>"
METHODS = ("gradcam", "cfcam", "random")
VIEW = Preprocess((96, 96), (0.5,) * 3, (0.5,) * 3, resize=110).view


def make(out: Path, rows: list[dict[str, Any]], plots: bool = False, **arguments: Any) -> Path:
    """An evaluation's folder with summary, page and, where asked for, plots."""
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


# Plots


def test_the_plots_are_pictures_that_fit_a_page(folder: Path):
    for name in ("curves", "bars", "grid"):
        with Image.open(folder / "plots" / f"{name}.png") as picture:
            assert 600 < picture.width < 2400
            assert np.asarray(picture.convert("L")).std() > 5  # something is drawn


def test_two_runs_draw_the_same_bytes(tmp_path: Path):
    table = as_table(made_rows(2, METHODS[:2]))
    summary = summarise(table, COLUMNS)
    first, second = (write_plots(summary, table, tmp_path / name, VIEW, columns=["blank"]) for name in "ab")
    assert [path.name for path in first] == ["curves.png", "bars.png", "grid.png"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_curves_are_drawn_at_their_levels():
    summary = summarise(
        as_table(made_rows(5)), COLUMNS, options=MetricOptions(noise_levels=(1.0, 2.0, 3.0, 4.0, 9.0))
    )
    figure = draw_curves(summary)
    assert figure is not None
    lines = [panel.get_lines()[1] for panel in figure.axes[:2]]  # cfcam's
    np.testing.assert_allclose(lines[0].get_xdata(), np.linspace(0, 100, 21))
    np.testing.assert_allclose(lines[1].get_xdata(), [1, 2, 3, 4, 9])
    np.testing.assert_allclose(
        lines[1].get_ydata(), summary["curves"]["cfcam"]["gradient_noise_ssim_curve"]["mean"]
    )
    titles = [panel.get_title() for panel in figure.axes[:2]]
    assert titles == ["deletion black: lower is better", "gradient noise SSIM: higher is better"]


def test_a_curve_of_unknown_levels_is_numbered():
    assert axis("gradient_noise_ssim_curve", {"noise_levels": [1, 2]}, 3) == ("position", range(1, 4))
    assert axis("of_a_later_version", {}, 2) == ("position", range(1, 3))


def test_the_grid_shows_each_methods_map_over_the_view(photos: list[Image.Image], tmp_path: Path):
    photos[0].save(tmp_path / "cat.png")
    rows = [row(0, method, i, uri=str(tmp_path / "cat.png")) for i, method in enumerate(METHODS[:2])]
    ((photo, first, second),) = gallery(as_table(rows), METHODS[:2], VIEW, 5)
    assert photo.caption == "photos/000.jpg\nEgyptian cat 75%"
    np.testing.assert_array_equal(photo.pixels, VIEW(photos[0]))
    for cell, r in zip((first, second), rows, strict=True):
        np.testing.assert_array_equal(
            cell.pixels, draw_overlay(photo.pixels, upsample_grid(r["grid"], (96, 96)), alpha=0.5)
        )


def test_the_grid_says_what_it_cannot_show():
    rows = [row(0, "gradcam", 0), row(0, "cfcam", 1, grid=None), row(1, "gradcam", 0)]
    (cells,) = gallery(as_table(rows), METHODS, VIEW, 5)  # the image that more methods explained
    assert cells[0].note == "cannot be shown: the file does not exist"
    assert [cell.pixels for cell in cells] == [None] * 4


def test_the_grids_images_are_spread_over_the_run():
    captions = [
        cells[0].caption.split("\n")[0] for cells in gallery(as_table(made_rows(21)), METHODS, VIEW, 5)
    ]
    assert captions == [f"photos/{i:03}.jpg" for i in (0, 5, 10, 15, 20)]


def test_long_names_keep_what_tells_them_apart():
    long = {"sample_id": "a/folder/of/photos/the cat.jpg", "target_name": "a very long name of a class"}
    ((photo, _),) = gallery(as_table([row(0, "cfcam", 0, **long)]), ["cfcam"], VIEW, 1)
    assert photo.caption == "…/photos/the cat.jpg\na very long nam… 75%"


def test_of_many_methods_the_first_and_the_baseline_are_drawn_and_the_title_says_so():
    names = (*(f"m{i}" for i in range(14)), "gradcam")
    summary = summarise(as_table(made_rows(2, names)), COLUMNS)
    assert shown(summary) == [*(f"m{i}" for i in range(11)), "gradcam"]
    figure = draw_curves(summary)
    assert figure is not None
    assert figure.get_suptitle().endswith("; 12 of 15 methods")


def test_bars_have_the_means_lengths_and_the_verdicts_colours_and_marks():
    summary = summarise(as_table(made_rows(40)), COLUMNS)
    figure = draw_bars(summary, ["deletion_black_auc", "insertion_black_auc"])
    assert figure is not None
    better, worse = figure.axes
    means = [summary["methods"][name]["deletion_black_auc"]["mean"] for name in METHODS]
    np.testing.assert_allclose([bar.get_width() for bar in better.patches], means)
    assert [text.get_text() for text in better.texts] == ["", "▲", "▲"]
    assert [text.get_text() for text in worse.texts] == ["", "▼", "▼"]
    assert better.patches[1].get_facecolor() != worse.patches[1].get_facecolor()


def test_columns_without_values_have_no_bars_unless_asked_for():
    rows = [r | {"pointing": None} for r in made_rows(3)]
    summary = summarise(as_table(rows), COLUMNS)
    figure, asked = draw_bars(summary), draw_bars(summary, ["pointing"])
    assert figure is not None
    assert asked is not None
    assert not any("pointing" in panel.get_title() for panel in figure.axes)
    assert [text.get_text() for text in asked.axes[0].texts] == ["no value"] * 3
    with pytest.raises(ConfigError, match="unknown column 'drop'"):
        draw_bars(summary, ["drop"])


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModelError, match=re.escape("pip install 'cfcam-gpu[plots]'")):
        write_plots({}, as_table([]), tmp_path, VIEW)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "plots").write_text("in the way")
    table = as_table(made_rows(2))
    with pytest.raises(InputError, match=r"cannot write .*curves\.png: "):
        write_plots(summarise(table, COLUMNS), table, tmp_path, VIEW)


# The page without a browser


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


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[dev]'")
    if not CHROMIUM.exists():
        pytest.skip(f"needs {CHROMIUM}: apt-get install chromium (Debian)")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


class Reader:
    """The page opened from disk; notes console messages, errors and every request that leaves the file."""

    def __init__(self, browser: Any, file: Path, **context: Any) -> None:
        self.problems: list[str] = []
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | context)
        self.context.route("**/*", lambda route: self._only(route, file.as_uri()))
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.problems.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        self.page.set_default_timeout(10_000)
        self.page.goto(file.as_uri())

    def _only(self, route: Any, address: str) -> None:
        if route.request.url == address or route.request.url.startswith("data:"):
            return route.continue_()
        self.problems.append(f"request: {route.request.url}")
        return route.abort()

    def methods(self, table: str = "means") -> list[str]:
        return self.page.locator(f"#{table} tbody th").all_text_contents()

    def sort(self, heading: str, table: str = "means") -> None:
        self.page.locator(f"#{table} thead").get_by_role("button", name=heading).click()


@pytest.fixture
def reader(browser: Any, folder: Path) -> Iterator[Reader]:
    found = Reader(browser, folder / "report.html")
    yield found
    assert found.problems == []
    found.context.close()


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
    pictures = reader.page.locator(".plot img")
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
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    viewport = {"width": width, "height": 900}
    reader = Reader(browser, folder / "report.html", color_scheme=scheme, viewport=viewport)
    reader.sort("blank")
    found = axe.Axe().run(reader.page).response["violations"]
    assert [(item["id"], item["nodes"][0]["failureSummary"]) for item in found] == []
    assert reader.page.evaluate("document.documentElement.scrollWidth") <= width  # only the tables scroll
    assert reader.problems == []
    reader.context.close()


def test_plots_keep_a_light_ground_in_the_dark_and_the_theme_can_be_chosen(browser: Any, folder: Path):
    reader = Reader(browser, folder / "report.html", color_scheme="dark")

    def background(selector: str) -> str:
        return reader.page.eval_on_selector(selector, "node => getComputedStyle(node).backgroundColor")

    dark = background("body")
    assert background(".plot") == "rgb(255, 255, 255)"
    reader.page.click("#theme")
    assert background("body") != dark
    reader.context.close()
