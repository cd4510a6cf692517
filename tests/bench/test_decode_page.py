"""The tables of docs/decoding.md are those of the committed results."""

from __future__ import annotations

from bench import decode_page, pages, readme


def test_the_tables_are_those_of_the_results() -> None:
    page = decode_page.PAGE.read_text(encoding="utf-8")
    result = readme.read_results(("decode",))["decode"]
    assert pages.rewritten(page, decode_page.tables(result)) == page


def test_the_measured_views_are_within_the_stated_tolerance() -> None:
    from cfcam_gpu.images.scaled import LARGEST_TOLERANCE, MEAN_TOLERANCE

    scaled = readme.read_results(("decode",))["decode"]["scaled"]
    for kind in ("mosaics", "enlarged"):
        for views in scaled[kind]["views"].values():
            assert views["mean"] <= MEAN_TOLERANCE
            assert views["largest"] <= LARGEST_TOLERANCE
