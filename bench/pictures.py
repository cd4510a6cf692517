"""Makes the pictures of the README, of photos that installed packages hold.

    python -m bench.pictures [NAME.jpg ...]

Needs the extras `demo` and `evaluate`, and Chromium with playwright (extra `dev`) for the picture of the report.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from bench.method_sheet import COMPOSITES, composites, draw_sheet
from cfcam_gpu import CFCAM
from cfcam_gpu.cli.demo_photos import MODEL, PHOTOS, QUESTION, find_photos
from cfcam_gpu.cli.demo_pictures import two_questions
from cfcam_gpu.dataset import RunOptions, explain_dataset, open_image
from cfcam_gpu.images import draw_contact_sheet
from cfcam_gpu.models import load_model
from cfcam_gpu.report import write_report

FOLDER = Path(__file__).parents[1] / "docs" / "images"
METHOD = "cfcam-sharp"


def main(names: Sequence[str]) -> None:
    """Writes the pictures of these names, all by default."""
    unknown = {*names} - {*PICTURES}
    if unknown:
        raise SystemExit(f"unknown pictures {sorted(unknown)}; known: {', '.join(PICTURES)}")
    FOLDER.mkdir(exist_ok=True)
    for name in names or PICTURES:
        draw, width = PICTURES[name]
        _save(draw(), name, width)


def _methods() -> Image.Image:
    return draw_sheet(load_model(MODEL), composites(), COMPOSITES)


def _report() -> Image.Image:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "maps"
        explain_dataset(find_photos()[0], out, load_model(MODEL), RunOptions(method=METHOD))
        return _screenshot(write_report(out), Path(folder) / "report.png")


def _questions() -> Image.Image:
    loaded = load_model(MODEL)
    uris = {sample.sample_id: sample.uri for sample in find_photos()[0]}
    photos = [open_image(uris[PHOTOS[name][1]]) for name in QUESTION]
    with CFCAM(loaded.model, method=METHOD) as cam:
        strip = two_questions(loaded, cam, photos)
    sheet = draw_contact_sheet([], strip, title="", subtitle="")
    # The strip alone, without the heading of a sheet.
    return sheet.crop((0, 190, sheet.width, sheet.height))


def _screenshot(page: Path, to: Path) -> Image.Image:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        view = browser.new_page(viewport={"width": 1200, "height": 700})
        view.goto(page.resolve().as_uri())
        view.wait_for_selector("img")
        view.wait_for_timeout(500)
        view.screenshot(path=to)
        browser.close()
    return Image.open(to).convert("RGB")


def _save(picture: Image.Image, name: str, width: int) -> None:
    height = round(picture.height * width / picture.width)
    picture.resize((width, height), Image.Resampling.LANCZOS).save(FOLDER / name, quality=80, optimize=True)


#: File name -> what draws the picture, and its width in pixels.
PICTURES = {
    "questions.jpg": (_questions, 1000),
    "report.jpg": (_report, 1000),
    "methods.jpg": (_methods, 1200),
}


if __name__ == "__main__":
    main(sys.argv[1:])
