"""The report for readers who are not engineers: what is said at once, what stands behind details, what is printed."""

from __future__ import annotations

from pathlib import Path

from cfcam_gpu.report import write_report
from tests.helpers.smallnet import photo, run, save
from tests.report.test_browser import Reader

NAME = "a very long name of a photo that no card is wide enough for 0123456789"


def opened(browser, tmp_path: Path) -> Reader:
    run(save(tmp_path / "my photos", **{NAME: photo(1), "b": photo(2)}), tmp_path / "out")
    return Reader(browser, write_report(tmp_path / "out").as_uri())


def test_the_page_names_its_data_and_explains_its_colours(browser, tmp_path):
    page = opened(browser, tmp_path).page
    assert (
        page.locator(".model").text_content()
        == "model test · layer conv:relu · method cfcam · images of my photos"
    )
    words = page.locator(".reading p")
    assert not words.is_visible()
    page.locator(".reading summary").click()
    assert "A map does not say that the prediction is right" in words.inner_text()


def test_few_cards_are_large_and_long_names_keep_their_end(browser, tmp_path):
    page = opened(browser, tmp_path).page
    card = page.locator("#cards .card").first
    assert card.bounding_box()["width"] > 340
    file = card.locator(".file")
    assert file.text_content() == f"{NAME}.png"
    start, end = file.locator("span").all()
    assert (end.text_content(), start.text_content()) == (f"{NAME}.png"[-12:], f"{NAME}.png"[:-12])
    assert start.evaluate("span => span.scrollWidth > span.clientWidth")  # cut, with an ellipsis
    assert end.evaluate("span => span.scrollWidth <= span.clientWidth")


def test_paths_stand_behind_details(browser, tmp_path):
    page = opened(browser, tmp_path).page
    page.locator("#cards .card").first.click()
    assert str(tmp_path) not in page.locator("#detail").inner_text()
    page.locator("#detail-more summary").click()
    assert str(tmp_path) in page.locator("#detail-raw").inner_text()


def test_paper_has_the_samples_and_no_controls(browser, tmp_path):
    reader = opened(browser, tmp_path)
    reader.page.emulate_media(media="print", color_scheme="dark")
    for control in ("nav", "#panel", "#theme"):
        assert not reader.page.locator(control).is_visible()
    assert reader.page.locator(".reading p").is_visible()
    assert reader.page.evaluate("getComputedStyle(document.querySelector('.card')).breakInside") == "avoid"
    assert reader.page.evaluate("getComputedStyle(document.body).color") == "rgb(27, 29, 34)"
    reader.page.locator("#cards .card").first.click()
    assert not reader.page.locator("header.top").is_visible()
    assert reader.page.locator("#views figure").count() == 3
    assert reader.page.locator("#detail-title").bounding_box()["y"] >= 0
    assert not reader.problems


def test_one_sample_a_page_on_request(browser, tmp_path):
    reader = opened(browser, tmp_path)

    def paper() -> int:
        return reader.page.pdf(format="A4", print_background=True).count(b"/Type /Page\n")

    assert paper() == 1
    reader.page.select_option('[data-state="print"]', "page")
    assert paper() == 2
    reader.page.reload()  # the address keeps it
    assert reader.page.locator(".picture canvas").nth(1).is_visible()
    assert paper() == 2
    reader.page.emulate_media(media="print")
    width = reader.page.locator(".card").first.bounding_box()["width"]
    assert width > 0.9 * reader.page.locator("#cards").bounding_box()["width"]
    assert not reader.problems
