"""A run whose Ray cluster loses its head node: the command says so and ends, and a later one finishes the run."""

from __future__ import annotations

import importlib.util
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cfcam_gpu.dataset.execution.ray_cluster import HeadGone, HeadWatch
from cfcam_gpu.dataset.store.store import Store
from tests.helpers.launcher import Launcher, is_alive, wait_until
from tests.helpers.smallnet import SLOW_FACTORY, photo, save

COUNT, PATIENCE = 240, 14.0
EXPLAIN = (
    "explain", "in", "--model", "py:slownet:make", "--size", "32", "--device", "cpu", "--engine", "torch",
    "--part-size", "4", "--batch-size", "2", "--workers", "1", "--overlays", "none",
)  # fmt: skip

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra ray")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster of a head without CPUs and a machine with one; Ray's processes live `PATIENCE` s without the head."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", f"{PATIENCE:.0f}")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        yield cluster
    finally:
        cluster.shutdown()


def parts(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "shards").glob("*.parquet")}


@needs_ray
@pytest.mark.slow
def test_the_death_of_the_head_node_ends_the_command_and_the_run_goes_on_without_it(cluster, tmp_path):
    (tmp_path / "slownet.py").write_text(SLOW_FACTORY)
    save(tmp_path / "in", **{f"{i:03}": photo(i) for i in range(COUNT)})
    launcher, out = Launcher(tmp_path), tmp_path / "out"
    process = launcher.start(*EXPLAIN, "--out", "out", "--distributed", "ray", "--actors", "1")
    wait_until(lambda: len(Store(out).finished_parts()) >= 2 or not is_alive(process.pid), 100)
    cluster.remove_node(cluster.head_node, allow_graceful=False)
    address, killed = os.environ["RAY_ADDRESS"], time.monotonic()
    ended = process.wait()
    assert ended.status == 1, ended.err
    assert "Traceback" not in ended.err
    assert f"error: the head node of the Ray cluster at {address} has not answered for 7 s" in ended.err
    assert time.monotonic() - killed < 3 * PATIENCE
    before = parts(out)
    assert 2 <= len(before) < COUNT // 4
    assert not list(out.glob(".cfcam/temporary-*"))
    (tmp_path / "slownet.py").write_text(SLOW_FACTORY.replace("sleep(0.2)", "sleep(0)"))
    ended = launcher.run(*EXPLAIN, "--out", "out")
    assert ended.status == 0, ended.err
    whole = launcher.run(*EXPLAIN, "--out", "whole")
    launcher.close()
    assert whole.status == 0, whole.err
    assert parts(out) == parts(tmp_path / "whole")
    assert before.items() <= parts(out).items()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "0.4")


@pytest.mark.usefixtures("quick")
def test_a_head_node_that_comes_back_in_time_is_no_error():
    with socket.create_server(("127.0.0.1", 0)) as head:
        port = head.getsockname()[1]
        watch = HeadWatch(f"127.0.0.1:{port}")
    watch.check()
    with socket.create_server(("127.0.0.1", port)):
        time.sleep(0.3)
        watch.check()
        watch.check()
    time.sleep(0.3)
    with pytest.raises(
        HeadGone, match=r"has not answered for 0 s; what is finished is kept: the same command"
    ):
        watch.check()


@pytest.mark.usefixtures("quick")
def test_a_head_node_that_was_never_in_reach_is_not_watched():
    with socket.create_server(("127.0.0.1", 0)) as head:
        port = head.getsockname()[1]
    watch = HeadWatch(f"127.0.0.1:{port}")
    time.sleep(0.3)
    watch.check()
