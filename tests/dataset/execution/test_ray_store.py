"""Runs whose rows do not fit into Ray's object store: others are spilled, or the run ends and loses nothing."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cfcam_gpu.dataset.store.store import Store
from cfcam_gpu.errors import BackendError
from cfcam_gpu.images.preprocess import Preprocess
from cfcam_gpu.models import LoadedModel
from tests.helpers.smallnet import photo, run, save

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra ray")

#: Bytes of the object store, about the least that Ray allows; a row of `large_maps` has 4 MiB.
STORE = 80 * 2**20
SIDE = 1024


class _LargeMaps(nn.Module):
    """A map of the image's own size."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.head = nn.Linear(4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.conv(images).relu().mean((2, 3)))
        return logits


def large_maps() -> LoadedModel:
    preprocess = Preprocess((SIDE, SIDE), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return LoadedModel(_LargeMaps().eval(), preprocess, ("ant", "bee", "cat"), "test", "random")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Starts a machine with a tiny object store and these settings of Ray; the folder of its logs."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray.cluster_utils import Cluster

    clusters: list[Any] = []

    def start(**settings: float) -> Path:
        arguments = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": STORE}
        cluster = Cluster(initialize_head=True, head_node_args={**arguments, "_system_config": settings})
        clusters.append(cluster)
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        head: Any = cluster.head_node
        return Path(head.get_session_dir_path()) / "logs"

    yield start
    ray.shutdown()
    for cluster in clusters:
        cluster.shutdown()


def settings(part_size: int) -> dict[str, Any]:
    return {
        "model": large_maps, "method": "gradcam", "engine": "torch", "overlays": "none", "batch_size": 2,
        "part_size": part_size,
    }  # fmt: skip


def parts(out: Path) -> dict[int, bytes]:
    store = Store(out)
    return {part: store.part_file(part).read_bytes() for part in store.finished_parts()}


@needs_ray
@pytest.mark.slow
def test_rows_that_do_not_fit_beside_other_objects_have_those_spilled(cluster, tmp_path):
    folder = save(tmp_path / "in", **{f"{i:03}": photo(i) for i in range(30)})
    logs = cluster()
    other = _put(np.ones(60 * 2**20, np.uint8))  # beside it there is room for less than the 48 MiB of a part
    run(folder, tmp_path / "out", **settings(12), distributed="ray", actors=1)
    assert any("Spilled" in path.read_text(errors="replace") for path in logs.glob("raylet*.out"))
    run(folder, tmp_path / "whole", **settings(12))
    assert parts(tmp_path / "out") == parts(tmp_path / "whole")
    del other


def _put(value: Any) -> Any:
    """Places a value in the object store, where it stays as long as the answer."""
    import ray

    return ray.put(value)


@needs_ray
@pytest.mark.slow
def test_a_full_object_store_and_a_full_disk_end_the_run_and_it_goes_on(cluster, tmp_path):
    folder, out = save(tmp_path / "in", **{f"{i:03}": photo(i) for i in range(26)}), tmp_path / "out"
    cluster(local_fs_capacity_threshold=0.001)  # any disk is fuller than that
    with pytest.raises(BackendError, match=r"an object store .* is full, .*; what is finished is kept"):
        run(folder, out, **settings(24), distributed="ray", actors=1)
    summary = run(folder, out, **settings(24))
    assert summary.before > 0  # rows that were written ahead
    run(folder, tmp_path / "whole", **settings(24))
    assert parts(out) == parts(tmp_path / "whole")
