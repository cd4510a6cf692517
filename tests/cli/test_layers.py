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
    table = [line.split() for line in outcome.out.splitlines()[1:]]
    assert table == [
        ["0", "Conv2d", "24", "x", "8", "x", "16"],
        ["1", "ReLU", "24", "x", "8", "x", "16", "automatic"],
    ]
    content = json.loads(cfcam(*arguments, "--json").out)
    assert content == {
        "model": "py:tinynet:make",
        "layers": [
            {"name": "0", "type": "Conv2d", "shape": [24, 8, 16], "chosen": False},
            {"name": "1", "type": "ReLU", "shape": [24, 8, 16], "chosen": True},
        ],
    }


def test_layers_of_the_packaged_model():
    layers = json.loads(cfcam("layers", "efficientnet-lite0", "--json").out)["layers"]
    chosen = [layer for layer in layers if layer["chosen"]]
    assert chosen == [{"name": "_swish", "type": "ReLU6", "shape": [1280, 7, 7], "chosen": True}]
