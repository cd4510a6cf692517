"""The report in a real browser: nothing is asked of the network, nothing in the data runs, everything works."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np
import pytest
from PIL import Image

from cfcam_gpu.dataset.store.results import open_results
from cfcam_gpu.images.overlay import colorize
from cfcam_gpu.report import write_report
from tests.helpers.browser import PageReader, axe_violations
from tests.helpers.stored_run import HOSTILE_LABEL, HOSTILE_NAME, failed_row, made_row, write_store


class Reader(PageReader):
    """The report as somebody reads it."""

    def open(self, address: str) -> None:
        super().open(address)
        self.page.wait_for_selector('[data-tab][aria-current="page"]')

    def set(self, name: str, value: str) -> None:
        """Chooses or types a value in the panel."""
        control = self.page.locator(f'#controls [data-state="{name}"]')
        if control.evaluate("node => node.tagName") == "SELECT":
            control.select_option(value)
        else:
            control.fill(value)

    def shown(self) -> list[str]:
        return self.page.locator("#cards .card .file").all_text_contents()

    def hash(self) -> str:
        return self.page.evaluate("decodeURIComponent(location.hash)")

    def focused(self) -> str:
        """The sample of the focused card, or the id of whatever has the focus."""
        return self.page.evaluate(
            "(node => node.sample?.sample_id ?? (node.id || node.dataset.state))(document.activeElement)"
        )

    def drawn(self, selector: str) -> np.ndarray:
        """The pixels (H, W, 3) of the first canvas that matches."""
        self.page.wait_for_selector(selector)
        address = self.page.eval_on_selector(selector, "canvas => canvas.toDataURL()")
        with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as picture:
            return np.asarray(picture.convert("RGB"))


@pytest.fixture(scope="module")
def page_file(demo: Path) -> Path:
    """The report alone in a folder: it needs nothing else."""
    folder = demo.parent / "alone"
    folder.mkdir()
    return Path(shutil.copy(write_report(demo), folder))


def made_rows(count: int) -> list[dict[str, Any]]:
    """Samples without originals, every tenth of them failed."""
    return [
        failed_row(i, "decode", "ImageError", "broken") if i % 10 == 9 else made_row(i) for i in range(count)
    ]


@pytest.fixture(scope="module")
def large_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """130 samples, one with an original, with data and pictures in a folder of an awkward name."""
    folder = tmp_path_factory.mktemp("large")
    Image.new("RGB", (400, 300), "teal").save(folder / "teal.png")
    rows = made_rows(130)
    rows[125] |= {"uri": str(folder / "teal.png")}
    return write_report(write_store(folder / "out", rows), folder / "a #1 100%.html", self_contained=100)


@pytest.fixture(scope="module")
def shared(browser: Any, page_file: Path) -> Reader:
    return Reader(browser, page_file.as_uri())


@pytest.fixture
def reader(shared: Reader, page_file: Path) -> Iterator[Reader]:
    """The demo's report, freshly opened."""
    shared.open(page_file.as_uri())
    yield shared
    problems, shared.problems = shared.problems, []
    assert problems == []


# Nothing from outside, nothing that runs


def test_hostile_names_and_labels_are_text(reader: Reader):
    name = f"set 2/{HOSTILE_NAME}"
    assert name in reader.shown()
    reader.page.locator(".card", has_text=name).click()
    assert reader.page.locator("#detail-title").text_content() == name
    assert HOSTILE_LABEL in reader.page.locator("#detail-facts").text_content()
    reader.page.keyboard.press("Escape")
    reader.set("by", "label")
    reader.set("class", HOSTILE_LABEL)
    assert len(reader.shown()) == 3
    reader.set("q", HOSTILE_NAME)
    assert reader.shown() == [name]
    assert reader.page.evaluate("window.hacked") is None


def test_hostile_hashes_do_nothing(browser: Any, page_file: Path):
    wrong = "tab=<img>&sort=__proto__&alpha=NaN&cmap=constructor&page=-1e9&max=-3&view=nobody&class=%00&by=toString"
    reader = Reader(browser, f"{page_file.as_uri()}#{wrong}")
    assert reader.shown() == []  # no class is called that
    reader.page.click("#empty-reset")
    assert len(reader.shown()) == 26
    assert reader.problems == []
    reader.context.close()


# What is drawn


@pytest.mark.parametrize("cmap", ["inferno", "viridis"])
def test_the_heatmap_is_the_librarys_own(reader: Reader, demo: Path, cmap: str):
    row = next(open_results(demo).rows())
    reader.open(f"{reader.page.url.split('#')[0]}#view={quote(row['sample_id'])}&cmap={cmap}")
    drawn = reader.drawn("#views .heatmap canvas")
    values = upsampled(row["grid"], drawn.shape[:2]) / row["heatmap_max"]
    difference = np.abs(drawn.astype(int) - colorize(np.clip(values, 0, 1), cmap))
    assert difference.max() <= 6  # one of the 256 steps, where float32 rounds otherwise
    assert difference.mean() < 0.05


def test_one_scale_for_all_images_divides_by_the_largest_or_the_given_maximum(reader: Reader, demo: Path):
    rows = list(open_results(demo).rows())
    row, peak = rows[0], max(row["heatmap_max"] or 0 for row in rows)
    address = f"{reader.page.url}#view={quote(row['sample_id'])}&cmap=bone&scale=shared"
    for end, extra in ((peak, ""), (2 * peak, f"&max={2 * peak}")):
        reader.open(address + extra)
        drawn = reader.drawn("#views .heatmap canvas")
        expected = colorize(np.clip(upsampled(row["grid"], drawn.shape[:2]) / end, 0, 1), "bone")
        assert np.abs(drawn.astype(int) - expected).max() <= 6
        assert float(reader.page.locator("#detail [data-bar-end]").text_content()) == pytest.approx(
            end, rel=0.01
        )


def upsampled(grid: np.ndarray | None, size: tuple[int, int]) -> np.ndarray:
    assert grid is not None
    return cv2.resize(grid, size[::-1], interpolation=cv2.INTER_LINEAR)


def test_a_heatmap_lies_where_the_model_looked(browser: Any, tmp_path: Path):
    row = made_row(0, width=400, height=200, box=[100.0, 0.0, 300.0, 200.0])
    page = write_report(write_store(tmp_path / "out", [row]))
    reader = Reader(browser, f"{page.as_uri()}#view={quote(row['sample_id'])}")
    canvas = reader.page.locator("#views .both canvas")
    frame, box = reader.page.locator("#views .both .frame").bounding_box(), canvas.bounding_box()
    assert box["x"] - frame["x"] == pytest.approx(frame["width"] / 4, abs=1)
    assert box["width"] == pytest.approx(frame["width"] / 2, abs=1)
    assert box["height"] == pytest.approx(frame["height"], abs=1)
    assert "part" in canvas.get_attribute("class")
    assert reader.problems == []
    reader.context.close()


def test_the_slider_blends_cards_and_detail_alike(reader: Reader):
    def opacity(where: str) -> str:
        return reader.page.locator(f"{where} .both canvas").first.evaluate(
            "node => getComputedStyle(node).opacity"
        )

    reader.page.wait_for_selector("#cards .both canvas")
    assert opacity("#cards") == "0.5"
    reader.set("alpha", "0.8")
    assert opacity("#cards") == "0.8"
    reader.page.get_by_role("button", name="Heatmap", exact=True).click()
    assert opacity("#cards") == "1"
    reader.page.get_by_role("button", name="Photo", exact=True).click()
    assert opacity("#cards") == "0"
    reader.page.locator(".card").first.click()
    reader.page.locator("#detail input[type=range]").fill("0.25")
    assert opacity("#views") == opacity("#cards") == "0.25"
    assert reader.hash().startswith("#alpha=0.25")


def test_originals_that_cannot_be_shown_say_why(reader: Reader):
    gone = reader.page.locator(".card", has_text="moved away.jpg")
    assert gone.locator(".placeholder").text_content() == "Original not shown: the file does not exist"
    assert gone.locator("canvas").count() == 1
    broken = reader.page.locator(".card", has_text="bad/001.jpg")
    assert broken.locator(".placeholder").text_content() == "decode: truncated or corrupt: broken data stream"
    assert broken.locator("canvas").count() == 0


# Filters, sorting, addresses


#: Settings of the panel, and how many of the 26 samples they leave.
FILTERS = (
    ({"status": "error"}, 3),
    ({"status": "blank"}, 1),
    ({"status": "ok"}, 22),
    ({"q": "NaN"}, 1),
    ({"q": "set photo-1"}, 3),
    ({"q": "nothing like it"}, 0),
    ({"by": "label", "class": "moped"}, 3),
    ({"by": "target", "class": "1"}, 1),
    ({"by": "label", "class": "daisy", "status": "error"}, 1),
)


def test_filters(reader: Reader):
    for settings, count in FILTERS:
        for name, value in settings.items():
            reader.set(name, value)
        assert len(reader.shown()) == count, settings
        assert reader.page.locator("#count").text_content() == f"{count} of 26 samples"
        assert reader.page.locator("#empty").is_visible() == (count == 0)
        assert all(f"{name}=" in reader.hash() for name in settings)
        reader.page.click("#reset")
        assert len(reader.shown()) == 26
        assert reader.hash() == ""


def test_correct_and_wrong_are_the_judged_ones(reader: Reader, demo: Path):
    rows = [row for row in open_results(demo).rows() if row["status"] == "ok"]
    judged = [row for row in rows if row["label"] not in (None, HOSTILE_LABEL)]
    for choice, right in (("correct", True), ("wrong", False)):
        reader.set("check", choice)
        expected = [row["sample_id"] for row in judged if (row["label"] == row["pred_name"]) == right]
        assert reader.shown() == expected


@pytest.mark.parametrize(
    ("key", "field"), [("prob", "prob"), ("noise", "noise_fraction"), ("name", "sample_id")]
)
def test_sorting_both_ways_keeps_rows_without_the_value_last(
    reader: Reader, demo: Path, key: str, field: str
):
    values: dict[str, Any] = {row["sample_id"]: dict(row)[field] for row in open_results(demo).rows()}
    reader.set("sort", key)
    for order in (1, -1):
        found = [values[name] for name in reader.shown()]
        known = [value for value in found if value is not None]
        if key != "name":
            assert known == sorted(known)[::order]
        assert found[len(known) :] == [None] * (26 - len(known))
        reader.page.click("#direction")
    assert "sort=" in reader.hash()


def test_a_copied_address_shows_the_same(browser: Any, reader: Reader):
    reader.set("by", "target")
    reader.set("status", "blank")
    reader.set("cmap", "turbo")
    reader.page.locator(".card").click()
    other = Reader(browser, reader.page.url)
    assert other.page.locator("#detail").is_visible()
    assert other.page.locator("#detail-title").text_content() == "blank map.jpg"
    assert "nothing in the image speaks for goldfish" in other.page.locator("#detail-message").text_content()
    other.page.click("#close")
    assert other.shown() == ["blank map.jpg"]
    other.page.wait_for_url("**/*#by=target&status=blank&cmap=turbo")
    assert other.problems == []
    other.context.close()


def test_the_back_button_closes_the_detail_view_and_returns_to_a_tab(reader: Reader):
    reader.page.locator(".card").first.click()
    reader.page.go_back()
    reader.page.wait_for_selector("#detail", state="hidden")
    reader.page.get_by_role("button", name="Classes").click()
    assert reader.page.locator("#classes .card").count() > 5
    reader.page.go_back()
    reader.page.wait_for_selector("#cards .card")


def test_a_class_leads_to_its_samples(reader: Reader):
    reader.page.get_by_role("button", name="Classes").click()
    moped = reader.page.locator("#classes .card", has_text="moped")
    assert "3 maps" in moped.text_content()
    moped.click()
    assert reader.hash().startswith("#by=target&class=")
    assert len(reader.shown()) == 3


def test_the_run_says_what_it_was(reader: Reader):
    reader.page.get_by_role("button", name="Run", exact=True).click()
    assert "eps_percentile" not in reader.page.locator("#tab-run").inner_text()
    for summary in reader.page.locator("#tab-run summary").all():
        summary.click()
    text = reader.page.locator("#tab-run").inner_text()
    for part in ("cfcam explain '<my photos>'", "efficientnet-lite0", "eps_percentile", "NonFinite"):
        assert part in text
    assert "normalised per image" in text
    assert not reader.page.locator("#panel").is_visible()


# Keyboard


def test_keys_move_open_and_close(reader: Reader):
    order = reader.shown()
    press = reader.page.keyboard.press
    press("ArrowRight")
    assert reader.focused() == order[0]
    press("ArrowRight")
    assert reader.focused() == order[1]
    press("ArrowDown")
    across = order.index(reader.focused()) - 1
    assert across >= 2
    press("ArrowUp")
    press("ArrowLeft")
    assert reader.focused() == order[0]
    press("Enter")
    assert reader.page.locator("#detail-title").text_content() == order[0]
    press("ArrowRight")
    press("ArrowRight")
    press("ArrowLeft")
    assert reader.page.locator("#detail-title").text_content() == order[1]
    assert reader.page.locator("#detail-place").text_content() == "2 of 26"
    press("Escape")
    reader.page.wait_for_selector(f'.card:focus:has-text("{order[1]}")')
    assert not reader.page.locator("#detail").is_visible()


def test_slash_searches_and_escape_clears(reader: Reader):
    reader.page.keyboard.press("/")
    assert reader.focused() == "q"
    reader.page.keyboard.type("photo-2 [1/")  # no key of the page while typing
    assert reader.shown() == []
    reader.page.keyboard.press("Escape")
    assert len(reader.shown()) == 26
    assert reader.hash() == ""


def test_brackets_blend_and_the_question_mark_helps(reader: Reader):
    reader.page.keyboard.press("]")
    reader.page.keyboard.press("]")
    reader.page.keyboard.press("[")
    assert reader.hash() == "#alpha=0.55"
    reader.page.keyboard.press("?")
    assert reader.page.locator("#keys").is_visible()
    reader.page.keyboard.press("Escape")
    assert not reader.page.locator("#keys").is_visible()


# Large runs


def test_a_page_with_files_beside_it_loads_them_as_needed(browser: Any, large_file: Path):
    reader = Reader(browser, large_file.as_uri())
    assert len(reader.shown()) == 60
    assert reader.page.locator("#cards canvas").first.is_visible()
    reader.page.get_by_role("button", name="Next page").first.click()
    reader.page.get_by_role("button", name="Next page").first.click()
    assert len(reader.shown()) == 10
    assert "page=3" in reader.hash()
    photo = reader.page.locator(".card", has_text="made/00125.jpg").locator("img")
    photo.wait_for()
    assert photo.evaluate("node => node.decode().then(() => [node.naturalWidth, node.naturalHeight])") == [
        400,
        300,
    ]
    reader.page.locator(".card").first.click()
    reader.page.keyboard.press("ArrowLeft")
    assert reader.page.locator("#detail-place").text_content() == "120 of 130"
    reader.page.keyboard.press("Escape")
    reader.page.wait_for_url("**/*#page=2")
    assert reader.problems == []
    reader.context.close()


def test_arrows_go_on_to_the_next_page_and_back(browser: Any, large_file: Path):
    reader = Reader(browser, large_file.as_uri())
    reader.page.locator(".card").last.focus()
    reader.page.keyboard.press("ArrowRight")
    assert reader.focused() == "made/00060.jpg"
    reader.page.keyboard.press("ArrowLeft")
    assert reader.focused() == "bad/059.jpg"
    reader.context.close()


def test_a_missing_folder_is_said(browser: Any, large_file: Path, tmp_path: Path):
    reader = Reader(browser, Path(shutil.copy(large_file, tmp_path)).as_uri())
    placeholder = reader.page.locator(".card .placeholder").first
    placeholder.wait_for()
    text = placeholder.text_content()
    assert "data-000.js is missing; keep that folder beside this page" in text
    reader.context.close()


# For everyone


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 380)])
@pytest.mark.parametrize(
    "state", ["", "#view=set%200%2Fphoto-3-0.jpg", "#tab=classes", "#tab=accuracy", "#tab=run"]
)
def test_axe_finds_no_violation(browser: Any, page_file: Path, scheme: str, width: int, state: str):
    viewport = {"width": width, "height": 900}
    reader = Reader(browser, page_file.as_uri() + state, color_scheme=scheme, viewport=viewport)
    assert axe_violations(reader.page) == []
    assert reader.page.evaluate("document.documentElement.scrollWidth") <= width  # nothing sticks out
    assert reader.problems == []
    reader.context.close()


def test_the_theme_follows_the_system_until_it_is_chosen(browser: Any, page_file: Path):
    reader = Reader(browser, page_file.as_uri(), color_scheme="dark")

    def background() -> str:
        return reader.page.evaluate("getComputedStyle(document.body).backgroundColor")

    dark = background()
    reader.page.click("#theme")
    assert background() != dark
    assert reader.page.locator("#theme").text_content() == "Dark"
    reader.page.emulate_media(color_scheme="light")
    reader.page.click("#theme")
    assert background() == dark
    reader.context.close()


def test_filters_are_folded_away_on_a_narrow_screen(browser: Any, page_file: Path):
    reader = Reader(browser, page_file.as_uri(), viewport={"width": 380, "height": 800})
    search = reader.page.locator('#controls [data-state="q"]')
    assert not search.is_visible()
    reader.page.get_by_text("Filters and display").click()
    assert search.is_visible()
    reader.context.close()
