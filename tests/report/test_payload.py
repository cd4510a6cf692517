"""JSON inside HTML and JavaScript is data only."""

from __future__ import annotations

from typing import Any

import pytest

from cfcam_gpu.report.payload import to_json


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("</script>", '"\\u003c/script\\u003e"'),
        ("<!-- & \u2028", '"\\u003c!-- \\u0026 \\u2028"'),
        ({"a": [float("nan"), float("inf"), 1.5]}, '{"a":[null,null,1.5]}'),
    ],
)
def test_json_is_safe_inside_html_and_javascript(value: Any, text: str):
    assert to_json(value) == text
