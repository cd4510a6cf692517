"""Scaling reports every value of every sweep, and the power with which the time grows."""

from __future__ import annotations

import json

import pytest

from bench import (
    scaling,
)
from tests.helpers.small_benches import BENCHES

pytestmark = pytest.mark.usefixtures("tiny")


def test_scaling_has_every_value_of_every_sweep():
    result = BENCHES["scaling"]()
    json.dumps(result, allow_nan=False)
    assert {name: list(by_value) for name, by_value in result["sweeps"].items()} == {
        "channels": ["16", "32"],
        "side": ["3", "5"],
        "batch": ["1", "2"],
    }
    assert list(result["targets"]["cases"]) == ["forward only", "1", "2"]


def test_growth_is_the_power_of_the_value():
    by_value = scaling.rows({"2": [1.0, 3.0], "4": [4.0, 9.0], "8": [4.0, 4.0]}, {"2": 1, "4": 2, "8": 1})
    assert [by_value[value]["growth"] for value in ("2", "4", "8")] == [None, 2.0, 0.0]
    assert by_value["4"]["ms_per_image"] == 3250
