"""One process writes the parts of a rank, and all that write share one world size."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from cfcam_gpu.dataset.store import locks
from cfcam_gpu.dataset.store.store import Store
from cfcam_gpu.errors import StoreError


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "out")
    store.make_folder()
    return store


def test_one_run_holds_a_rank_and_gives_it_back(store):
    with ExitStack() as first, ExitStack() as second:
        claim = locks.claim(first, store.locks_folder, 0, 1)
        assert claim.is_alone()
        with pytest.raises(
            StoreError, match=rf"out is being written by another run \(process {os.getpid()} on "
        ):
            locks.claim(second, store.locks_folder, 0, 1)
    with ExitStack() as third:
        locks.claim(third, store.locks_folder, 0, 1)


def test_processes_of_one_world_size_work_side_by_side_and_no_others(store):
    with ExitStack() as stack:
        one = locks.claim(stack, store.locks_folder, 0, 3)
        assert one.is_alone()
        two = locks.claim(stack, store.locks_folder, 2, 3)
        assert not one.is_alone()
        assert not two.is_alone()
        with pytest.raises(StoreError, match=r"by another run as rank 2 of 3 \(process"):
            locks.claim(stack, store.locks_folder, 2, 3)
        for world_size in (1, 2):
            with pytest.raises(StoreError, match=rf"runs with world size 3, this one has {world_size}"):
                locks.claim(stack, store.locks_folder, 0, world_size)
    with ExitStack() as stack:
        locks.claim(stack, store.locks_folder, 1, 2)
