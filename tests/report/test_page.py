"""Nothing in a file name, label or class name runs, and the page asks for nothing."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from pathlib import Path

import pytest

from cfcam_gpu.report import write_report
from tests.helpers.stored_run import (
    HOSTILE_LABEL,
    HOSTILE_NAME,
    column,
    embedded,
    made_row,
    write_store,
)


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
    (policy,) = map(html.unescape, re.findall(r'Content-Security-Policy" content="([^"]*)"', text))
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}' file: 'self'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"https?://", text)


@pytest.mark.parametrize(
    ("labels", "figures", "note"),
    [
        # Half of the folders are called otherwise than the classes: counts, and no percentage.
        (
            ["cat_one"] * 4 + ["cat two"] + ["wolf"] * 5,
            [("5 of 10", "judged"), ("4 of 5", "predicted correctly")],
            "5 of 10 predictions with a label can be judged; the labels of the others match no class",
        ),
        (["wolf"] * 10, [("0 of 10", "judged")], "0 of 10 predictions with a label can be judged"),
        (["cat_one"] * 4 + ["cat two"], [("80.0%", "predicted correctly")], None),
        ([None] * 5, [], None),
    ],
)
def test_the_headline_counts_what_could_be_judged(
    tmp_path: Path, labels: list[str | None], figures: list[tuple[str, str]], note: str | None
):
    rows = [
        made_row(i, label=label, pred=0, pred_name="cat one", target=0, target_name="cat one")
        for i, label in enumerate(labels)
    ]
    text = write_report(write_store(tmp_path / "out", rows, ["cat one", "cat_two"])).read_text()
    stats = re.findall(r"<li><b>(.*?)</b> (.*?)</li>", text)
    count = str(len(labels))
    assert stats == [(count, "samples"), (count, "explained"), *figures]
    assert ("can be judged" in text) == (note is not None)
    assert note is None or note in text
