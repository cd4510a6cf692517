"""What is printed at the end of a run, also of a large one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cfcam_gpu.cli import outcome as outcomes
from cfcam_gpu.cli.outcome import RunOutcome
from cfcam_gpu.dataset import open_results
from cfcam_gpu.dataset.sources.sample import Sample, path_uri
from tests.helpers.smallnet import photo, run, save


@pytest.fixture
def eight(tmp_path: Path) -> tuple[Path, RunOutcome]:
    """A run of four pictures and four files that are none."""
    good = {f"a{i}": photo(i) for i in range(4)}
    folder = save(tmp_path / "in", **good, **{f"b{i}": b"" for i in range(4)})
    summary = run(folder, tmp_path / "out")
    return tmp_path / "out", RunOutcome(summary, open_results(tmp_path / "out"))


@pytest.mark.parametrize(("most", "problems", "listed"), [(8, 2, 8), (7, 2, 2), (7, 100, 4)])
def test_json_lists_all_of_a_few_samples_and_problems_of_many(eight, monkeypatch, most, problems, listed):
    monkeypatch.setattr(outcomes, "MOST_IN_JSON", most)
    monkeypatch.setattr(outcomes, "MOST_PROBLEMS", problems)
    _, outcome = eight
    content = outcome.as_json()
    blank = sum(bool(image["blank"]) for image in content["images"])
    assert len([image for image in content["images"] if not image["blank"]]) == min(listed, 8) - blank
    assert content["counts"]["skipped"] == 4
    assert content["samples"] == 8
    if most < 8:
        assert all(image["status"] == "error" or image["blank"] for image in content["images"])


def test_a_finished_run_says_what_was_done_before(eight, capsys):
    out, _ = eight
    summary = run(out.parent / "in", out)
    RunOutcome(summary, open_results(out)).print()
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.match(
        r"explained 4 of 8 images \(8 of them before\) in 0\.\d s \(0.0 images/s\), \d blank, 4 sk", last
    )


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (
            ["ant", "BEE_", "wolf", "wolf"],
            r"2 of 4 labels judged, \d of these predicted correctly; the other labels match no class of the model",
        ),
        (["ant", "bee", "cat", "2"], r"\d of 4 predictions agree with their label \(\d+\.\d%\)"),
        ([None] * 4, None),
    ],
)
def test_labels_that_match_no_class_are_told_in_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], labels: list[str | None], expected: str | None
):
    folder = save(tmp_path / "in", **{f"a{i}": photo(i) for i in range(4)})
    samples: list[object] = [
        Sample(f"a{i}.png", path_uri(str(folder / f"a{i}.png")), label) for i, label in enumerate(labels)
    ]
    summary = run(samples, tmp_path / "out")
    RunOutcome(summary, open_results(tmp_path / "out")).print()
    *_, counts, last = capsys.readouterr().out.splitlines()
    assert (re.fullmatch(expected, last) is not None) if expected else last.startswith("explained 4 of 4")
    if expected:
        rows = list(open_results(tmp_path / "out").rows(["label", "pred", "pred_name"]))
        correct = sum(
            str(row["label"]).strip("_").lower() in (row["pred_name"], str(row["pred"])) for row in rows
        )
        assert f", {correct} of these" in last or last.startswith(f"{correct} of 4")
        assert counts.startswith("explained 4 of 4")
