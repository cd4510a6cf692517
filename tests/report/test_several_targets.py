"""The report of a run with several explained classes of an image: figures by sample, a card for each class."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cfcam_gpu.dataset import open_results
from cfcam_gpu.report import write_report
from cfcam_gpu.report.page import _stats
from cfcam_gpu.report.survey import survey_run
from tests.helpers.browser import axe_violations
from tests.helpers.smallnet import photo, run, save
from tests.report.test_browser import Reader


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of each of three images, and a file that cannot be read."""
    folder = tmp_path_factory.mktemp("several")
    save(folder / "in", a=photo(1), b=photo(2), broken=b"", c=photo(3))
    list_of_images = folder / "in.csv"
    list_of_images.write_text("path,label\nin/a.png,ant\nin/b.png,0\nin/broken.png,cat\nin/c.png,wolf\n")
    run(list_of_images, folder / "out", top_k=2)
    return folder / "out"


def test_figures_count_samples_and_maps(out):
    results = open_results(out)
    survey = survey_run(results)
    assert (survey.samples, survey.explained, len(survey)) == (4, 3, 7)
    assert sum(survey.failures.values()) == 1
    assert (survey.verdicts.judged, survey.verdicts.unmatched) == (2, 1)
    stats = {what: figure for figure, what in _stats(survey)}
    assert (stats["samples"], stats["explained"], stats["maps"], stats["error"]) == ("4", "3", "6", "1")
    assert sum(mean.count + mean.blank for mean in survey.classes.values()) == 6


@pytest.mark.parametrize("self_contained", [500, 0])
def test_a_picture_is_stored_once_for_all_classes(out, tmp_path, self_contained):
    page = write_report(out, tmp_path / "page.html", self_contained=self_contained)
    if self_contained:
        text = page.read_text()
        start = text.index('id="block-0">') + len('id="block-0">')
        pictures = json.loads(text[start : text.index("</script>", start)])["pictures"]
        kinds = [type(picture).__name__ for picture in pictures]
        assert kinds == ["str", "int", "str", "int", "NoneType", "str", "int"]
        assert [picture for picture in pictures if isinstance(picture, int)] == [0, 2, 5]
    else:
        assert len(list(tmp_path.rglob("*.jpg"))) == 3


def test_the_page_shows_each_class_and_leads_from_one_to_the_next(browser, out, tmp_path):
    rows = [dict(row) for row in open_results(out).rows() if row["status"] == "ok"]
    reader = Reader(browser, write_report(out, tmp_path / "page.html").as_uri())
    page = reader.page
    assert page.text_content("#count") == "7 rows of 4 samples"
    assert reader.shown() == [f"in/{name}.png" for name in ("a", "a", "b", "b", "broken", "c", "c")]
    names = page.locator("#cards .card .name").all_text_contents()
    assert [name for name in names if not name.startswith("Failed")] == [row["target_name"] for row in rows]
    minor = page.locator("#cards .card .minor").all_text_contents()
    assert [text for text in minor if text.startswith("explained")] == 3 * [
        "explained class 1 of 2",
        "explained class 2 of 2",
    ]
    page.locator("#cards .card").nth(1).click()
    buttons = page.locator("#classes-of-sample button")
    assert buttons.count() == 2
    assert buttons.nth(1).get_attribute("aria-pressed") == "true"
    assert f"view=in/a.png#{rows[1]['target']}" in reader.hash()
    for place in (1, 0):
        buttons.nth(place).click()
        assert page.locator("#classes-of-sample button").nth(place).get_attribute("aria-pressed") == "true"
        drawn = reader.drawn("#views figure:nth-child(2) canvas")
        expected = open_results(out).heatmap(rows[place])
        # The brightest place of the drawn map is where the class's own map has it.
        row, column = np.unravel_index(expected.argmax(), expected.shape)
        grey = np.asarray(Image.fromarray(drawn).convert("L").resize((32, 32)))
        assert grey[row, column] >= np.quantile(grey, 0.9)
    page.reload()
    page.wait_for_selector("#detail[open]")
    assert page.locator("#classes-of-sample button").nth(0).get_attribute("aria-pressed") == "true"
    assert not axe_violations(page)
    assert not reader.problems


def test_a_wrong_prediction_stands_beside_what_was_expected(browser, tmp_path):
    for i, name in enumerate(("ant", "bee", "cat")):
        save(tmp_path / f"in/{name}", **{f"p{i}": photo(i)})
    run(tmp_path / "in", tmp_path / "out", target="predicted,expected")
    rows = list(open_results(tmp_path / "out").rows())
    wrong = next(row for row in rows if row["target"] != row["pred"])
    predicted = next(row for row in rows if row["sample_id"] == wrong["sample_id"])
    reader = Reader(browser, write_report(tmp_path / "out").as_uri())
    cards = reader.page.locator("#cards .card", has_text=str(wrong["sample_id"]))
    assert [card.locator(".minor").first.text_content() for card in cards.all()] == [
        "predicted",
        "expected, not predicted",
    ]
    cards.nth(0).click()
    captions = reader.page.locator("#views figcaption").all_text_contents()
    assert captions[0] == "Original"
    assert captions[1].startswith(f"Predicted: {predicted['pred_name']}, ")
    assert captions[2].startswith(f"Expected: {wrong['label']}, ")
    for place, row in ((2, predicted), (3, wrong)):
        drawn = reader.drawn(f"#views figure:nth-child({place}) canvas")
        expected = open_results(tmp_path / "out").heatmap(row)
        at = np.unravel_index(expected.argmax(), expected.shape)
        grey = np.asarray(Image.fromarray(drawn).convert("L").resize((32, 32)))
        assert grey[at] >= np.quantile(grey, 0.9)
    assert not axe_violations(reader.page)
    reader.page.set_viewport_size({"width": 400, "height": 900})
    _, one, other = (figure.bounding_box() for figure in reader.page.locator("#views figure").all())
    assert one["y"] == other["y"]
    assert one["x"] + one["width"] <= other["x"]
    assert not reader.problems
