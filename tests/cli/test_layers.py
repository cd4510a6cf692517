"""`cfcam layers` lists what can be explained."""

from __future__ import annotations

import json

import pytest

from tests.helpers.command import OK, cfcam


@pytest.mark.usefixtures("work")
def test_layers_lists_candidates_and_marks_exactly_one():
    arguments = ("layers", "py:tinynet:make", "--size", "34x66")
    outcome = cfcam(*arguments)
    assert outcome.status == OK
    reason = "last map that the score depends on"
    table = [line.split() for line in outcome.out.splitlines()[1:]]
    shape = ["24", "x", "8", "x", "16", "nchw", "8", "x", "16"]
    assert table == [["0", "Conv2d", *shape], ["1", "ReLU", *shape, "automatic:", *reason.split()]]
    content = json.loads(cfcam(*arguments, "--json").out)
    both = {"shape": [24, 8, 16], "layout": "nchw", "map_shape": [8, 16]}
    assert content == {
        "model": "py:tinynet:make",
        "layers": [
            {"name": "0", "type": "Conv2d", "chosen": False, "note": "", **both},
            {"name": "1", "type": "ReLU", "chosen": True, "note": reason, **both},
        ],
    }


def test_layers_of_the_packaged_model():
    layers = json.loads(cfcam("layers", "efficientnet-lite0", "--json").out)["layers"]
    chosen = [layer for layer in layers if layer["chosen"]]
    assert [(layer["name"], layer["layout"], layer["map_shape"]) for layer in chosen] == [
        ("_swish", "nchw", [7, 7])
    ]
