"""An evaluation spread over a real Ray on this machine: the rows and the summary are those of a plain one."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from cfcam_gpu.errors import ConfigError
from tests.helpers.small_evaluation import evaluate_small, finished, stored_table
from tests.helpers.smallnet import make_loaded

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra ray")


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
    )
    yield
    ray.shutdown()


@needs_ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_rows_summary_and_plots_are_those_of_a_plain_evaluation(pictures: Path, tmp_path: Path):
    settings = {"part_size": 2, "batch_size": 2, "plots": True}
    plain = finished(evaluate_small(pictures, tmp_path / "plain", **settings))
    spread = {"distributed": "ray", "actors": 2, "model": make_loaded}
    result = evaluate_small(pictures, tmp_path / "ray", **settings, **spread)
    summary = finished(result)
    assert stored_table(tmp_path / "ray").equals(stored_table(tmp_path / "plain"))
    for name in plain.keys() - {"cost"}:
        assert summary[name] == plain[name], name
    assert summary["cost"].keys() == plain["cost"].keys()
    assert result.page is not None
    grids = [(tmp_path / name / "plots" / "grid.png").read_bytes() for name in ("plain", "ray")]
    assert grids[0] == grids[1]
    again = evaluate_small(pictures, tmp_path / "ray", **settings)
    assert (again.run.before, again.run.now) == (5, 0)


def test_a_loaded_model_cannot_be_given_to_actors(pictures: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="loads the model in every actor"):
        evaluate_small(pictures, tmp_path / "out", distributed="ray")
