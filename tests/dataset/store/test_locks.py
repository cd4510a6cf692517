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
    store.make()
    return store


def test_one_run_holds_an_index_and_gives_it_back(store):
    with ExitStack() as first, ExitStack() as second:
        claim = locks.claim(first, store.locks, 0, 1)
        assert claim.alone()
        with pytest.raises(
            StoreError, match=rf"out is being written by another run \(process {os.getpid()} on "
        ):
            locks.claim(second, store.locks, 0, 1)
    with ExitStack() as third:
        locks.claim(third, store.locks, 0, 1)


def test_shares_of_one_number_work_side_by_side_and_no_others(store):
    with ExitStack() as stack:
        one = locks.claim(stack, store.locks, 0, 3)
        assert one.alone()
        two = locks.claim(stack, store.locks, 2, 3)
        assert not one.alone()
        assert not two.alone()
        with pytest.raises(StoreError, match=r"by another run as index 2 of 3 \(process"):
            locks.claim(stack, store.locks, 2, 3)
        for count in (1, 2):
            with pytest.raises(StoreError, match=rf"that share it among 3 \(this one among {count}\)"):
                locks.claim(stack, store.locks, 0, count)
    with ExitStack() as stack:
        locks.claim(stack, store.locks, 1, 2)
