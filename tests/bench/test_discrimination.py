"""Discrimination measures every preset."""

from __future__ import annotations

import json

import pytest

from tests.helpers.small_benches import BENCHES

pytestmark = pytest.mark.usefixtures("tiny")


def test_discrimination_has_every_preset():
    result = BENCHES["discrimination"]()
    json.dumps(result, allow_nan=False)
    assert result["presets"]["upstream"]["correlation"] > 0.99 > result["presets"]["default"]["correlation"]
