"""`cfcam explain` of several classes of an image."""

from __future__ import annotations

import pytest

from tests.helpers.command import OK, USAGE
from tests.helpers.tinynet import explain, explain_json, files


def classes(content: dict) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for image in content["images"]:
        found.setdefault(image["file"], []).append(image["class_index"])
    return found


@pytest.mark.usefixtures("work")
def test_the_likeliest_classes_have_a_line_and_a_picture_each():
    outcome = explain("good", "--top-k", "2")
    assert outcome.status == OK
    _, *lines, summary = outcome.out.splitlines()
    assert [line.split()[0] for line in lines] == ["good/a.png", "good/a.png", "good/b.png", "good/b.png"]
    assert summary.startswith("explained 2 of 2 images")
    assert files("out") == sorted(line.split()[-1] for line in lines)
    assert all("_class" in name for name in files("out"))
    content = explain_json("good", "--top-k", "2")
    assert content["counts"]["ok"] == content["samples"] == 2
    assert all(len(indices) == 2 for indices in classes(content).values())


@pytest.mark.usefixtures("work")
def test_several_named_classes():
    content = explain_json("good", "--target", "cat,Bumble_Bee", "--class-names", "names.txt")
    assert classes(content) == {"good/a.png": [2, 1], "good/b.png": [2, 1]}
    assert content["target"] == "cat,Bumble_Bee"


@pytest.mark.parametrize("given", [["--multi-label=0"], ["--multi-label", "0"]])
@pytest.mark.usefixtures("work")
def test_every_class_above_a_threshold(given):
    content = explain_json("good", *given)
    assert all(sorted(indices) == [0, 1, 2] for indices in classes(content).values())
    assert sum(image["probability"] for image in content["images"][:3]) != pytest.approx(1, abs=1e-3)
    assert content["multi_label"] == 0
    assert content["activation"] == "sigmoid"


@pytest.mark.parametrize("arguments", [["good", "--multi-label"], ["--multi-label", "good"]])
@pytest.mark.usefixtures("work")
def test_a_threshold_may_be_left_out(arguments):
    content = explain_json(*arguments)
    for image in content["images"]:
        others = [one for one in content["images"] if one["file"] == image["file"]]
        assert image["probability"] > 0.5 or len(others) == 1
    assert content["multi_label"] == 0.5


@pytest.mark.usefixtures("work")
def test_wrong_ways_to_say_it_are_usage_errors():
    for arguments, message in (
        (["good", "--multi-label=x"], "--multi-label takes numbers, got 'x'"),
        (["good", "--multi-label", "1"], "multi label must be a probability from 0 to below 1, got 1.0"),
        (["good", "--top-k", "2", "--target", "1"], "target and top k both say what to explain"),
        (["good", "--activation", "relu"], "unknown activation 'relu'"),
    ):
        outcome = explain(*arguments)
        assert outcome.status == USAGE
        assert message in outcome.err
