"""Fixtures of the evaluations: five pictures, and what keeps the tests quick."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cfcam_gpu.evaluation import cost
from tests.helpers.smallnet import photo, save


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """The tensors are small: threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def one_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The methods' speeds are measured in one turn; only the test of the turns looks at them."""
    monkeypatch.setattr(cost, "_FEWEST", 1)
    monkeypatch.setattr(cost, "_ENOUGH", 0.0)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with `p0.png` to `p4.png`."""
    return save(tmp_path / "in", **{f"p{i}": photo(i) for i in range(5)})
