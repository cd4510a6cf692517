"""Precision compares each variant with float32."""

from __future__ import annotations

import json

import pytest

from bench import (
    precision,
)
from tests.helpers.small_benches import BENCHES

pytestmark = pytest.mark.usefixtures("tiny")


def test_precision_measures_differences_from_float32(monkeypatch):
    chosen = ("float32", "bfloat16, folded, channels last")
    monkeypatch.setattr(precision, "VARIANTS", {name: precision.VARIANTS[name] for name in chosen})
    result = BENCHES["precision"]()
    json.dumps(result, allow_nan=False)
    same, reduced = (result["variants"][name] for name in chosen)
    assert (same["largest"], same["other_labels"], same["within"], same["top1"]) == (0, 0, True, 1)
    assert 0 < reduced["mean"] < reduced["largest"] < 0.2
    assert reduced["correlation"] < 1
