"""Ray clusters: one of several machines, of which one dies during a run, and who may speak to one that a run starts."""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cfcam_gpu.dataset import open_results
from tests.dataset.execution.test_ray import telling
from tests.helpers.launcher import is_alive, wait_until
from tests.helpers.smallnet import Recorder, photo, run, save

COUNT = 32
SETTINGS = {"part_size": 4, "batch_size": 2, "overlays": "none", "engine": "torch"}

#: A raylet that does not answer for about a second is dead, instead of after half a minute.
QUICK_DEATH = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 200,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra ray")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster of a head without CPUs and two raylets with one each; this process has joined it."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "_system_config": QUICK_DEATH},
    )
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


@needs_ray
@pytest.mark.slow
def test_a_machine_that_dies_loses_nothing_and_nothing_is_twice(cluster: Any, tmp_path: Path):
    folder = save(tmp_path / "in", **{f"{i:03}": photo(i) for i in range(COUNT)})
    run(folder, tmp_path / "whole", **SETTINGS)
    (tmp_path / "pids").mkdir()

    def actors() -> list[int]:
        return [int(path.name) for path in (tmp_path / "pids").iterdir()]

    def kill_a_machine() -> None:
        cluster.remove_node(sorted(cluster.worker_nodes, key=str)[0], allow_graceful=False)

    recorder = Recorder(9, kill_a_machine)
    run(
        folder,
        tmp_path / "out",
        **SETTINGS,
        distributed="ray",
        actors=2,
        model=functools.partial(telling, tmp_path / "pids", 0.3),
        observer=recorder,
    )
    assert open_results(tmp_path / "out").table().equals(open_results(tmp_path / "whole").table())
    assert sorted(recorder.ids) == [f"{i:03}.png" for i in range(COUNT)]
    # Both machines had an actor; that of the dead one is gone with it, and no third one had a CPU.
    assert len(actors()) == 2
    assert [line for line in recorder.notes if line.startswith("an actor is gone (")]
    wait_until(lambda: not any(pid != os.getpid() and is_alive(pid) for pid in actors()))


#: Prints whether the cluster that a run starts asks for a token.
STARTED = """
import os
from cfcam_gpu.dataset.execution.ray_cluster import import_ray, joined_cluster

os.environ.pop("RAY_ADDRESS", None)
ray = import_ray()
with joined_cluster(ray):
    from ray._raylet import AuthenticationMode, get_authentication_mode
    print(get_authentication_mode() == AuthenticationMode.TOKEN)
"""


@needs_ray
@pytest.mark.slow
def test_a_ray_that_a_run_starts_asks_for_a_token(tmp_path: Path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    ended = subprocess.run(
        [sys.executable, "-c", STARTED],
        env={**environment, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert ended.stdout == "True\n"
    token = tmp_path / ".ray" / "auth_token"
    assert len(token.read_text()) == 64


#: A cluster of one machine, until its input ends.
CLUSTER = """
import sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""

NET = (
    "--model",
    "torchvision:squeezenet1_1@none",
    "--num-classes",
    "2",
    "--size",
    "64",
    "--overlays",
    "none",
)


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_token_that_the_cluster_has_not_is_told_with_what_to_do(tmp_path: Path):
    """Ray connects, and the workers are refused by this process: only "actors do not start" would be said."""
    folder = save(tmp_path / "in", a=photo(1))
    plain = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    plain |= {"HOME": str(tmp_path), "RAY_USAGE_STATS_ENABLED": "0"}

    def explain(address: str, **variables: str) -> subprocess.CompletedProcess[str]:
        out = tmp_path / variables["RAY_AUTH_MODE"]
        line = [sys.executable, "-m", "cfcam_gpu", "explain", str(folder), "--out", str(out), *NET]
        environment = {**plain, "RAY_ADDRESS": address, **variables}
        return subprocess.run(
            [*line, "--distributed", "ray"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        env={**plain, "RAY_AUTH_MODE": "disabled"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as cluster:
        assert cluster.stdin is not None
        assert cluster.stdout is not None
        address = cluster.stdout.readline().strip()
        told = explain(address, RAY_AUTH_MODE="disabled")
        refused = explain(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="a" * 64)
        cluster.stdin.close()
    assert told.returncode == 0, told.stderr
    assert refused.returncode == 1
    assert "error: actors do not start (" in refused.stderr
    assert f"the cluster at {address} has no token and this process expects one" in refused.stderr
    assert "set RAY_AUTH_MODE=disabled here" in refused.stderr
    assert "Traceback" not in refused.stderr
