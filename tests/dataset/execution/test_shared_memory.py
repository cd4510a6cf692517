"""Pixels in shared memory: who writes where, what is used again, and that no kill leaves any behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import cfcam_gpu
from cfcam_gpu.dataset.execution.pool import ProcessPool
from cfcam_gpu.dataset.execution.shared_memory import Progress, SharedMemory
from cfcam_gpu.dataset.execution.transfers import stacked_pixels
from cfcam_gpu.dataset.execution.worker import Failure, PlacedView
from cfcam_gpu.errors import BackendError
from cfcam_gpu.images.read_options import ReadOptions
from cfcam_gpu.images.views import View
from tests.helpers.launcher import is_alive, wait_until
from tests.helpers.smallnet import PLAIN, photo, save

WAIT = 60
SHAPE = (4, *PLAIN.size, 3)


@pytest.fixture
def pool() -> Iterator[ProcessPool]:
    one = ProcessPool(2, 30.0)
    yield one
    one.close()


def test_workers_write_each_view_into_its_slot(pool: ProcessPool, tmp_path: Path) -> None:
    folder = save(tmp_path / "in", a=photo(1), b=b"no image", c=photo(2, (31, 77)))
    block = pool.lease(SHAPE)
    assert block is not None
    tasks = [
        (str(folder / f"{name}.png"), PLAIN, None, "full", ReadOptions(), block.slot(i))
        for i, name in enumerate("abc")
    ]
    results = pool.submit_all("view", tasks)
    assert results.wait(WAIT)
    a, b, c = results.values()
    assert a == PlacedView(60, 45, None, None, None)
    assert isinstance(b, Failure)
    assert c[:2] == (31, 77)
    np.testing.assert_array_equal(block.pixels[0], PLAIN.view(photo(1)))
    np.testing.assert_array_equal(block.pixels[2], PLAIN.view(photo(2, (31, 77))))
    assert not block.pixels[[1, 3]].any()


def test_a_released_block_is_used_again_for_its_shape_only(pool: ProcessPool) -> None:
    first, second = pool.lease(SHAPE), pool.lease(SHAPE)
    assert first is not None
    assert second is not None
    assert not np.shares_memory(first.pixels, second.pixels)
    pool.release(first)
    assert pool.lease((2, 8, 8, 3)) is not first
    assert pool.lease(SHAPE) is first
    assert pool.lease(SHAPE) is not first


def test_progress_is_seen_by_the_other_side() -> None:
    memory = SharedMemory(workers=300)
    for place in (0, 255, 256, 299):
        ours, theirs = Progress(memory.descriptor, place), Progress(memory.descriptor, place)
        theirs.begin()
        theirs.begin()
        assert ours.begun == 2
        assert ours.begun_at > 0
        ours.reset()
        assert theirs.begun == 0
    memory.close()


def test_neighbours_are_joined_without_a_copy_and_others_with_one() -> None:
    memory = SharedMemory(workers=1)
    block = memory.lease(SHAPE)
    block.pixels[:] = np.random.default_rng(0).integers(0, 256, SHAPE)
    views = [View(pixels, 60, 45) for pixels in block.pixels]
    for chosen, shared in (
        ([0, 1, 2, 3], True),
        ([1, 2], True),
        ([3], True),
        ([0, 2, 3], False),
        ([1, 0], False),
    ):
        pixels = stacked_pixels([views[i] for i in chosen], torch.device("cpu")).numpy()
        np.testing.assert_array_equal(pixels, block.pixels[chosen])
        assert np.shares_memory(pixels, block.pixels) == shared
    mixed = stacked_pixels([views[0], View(block.pixels[1].copy(), 60, 45)], torch.device("cpu")).numpy()
    np.testing.assert_array_equal(mixed, block.pixels[:2])
    memory.close()


def test_without_room_for_a_batch_views_come_through_the_pipe(
    pool: ProcessPool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert pool.lease(SHAPE) is None
    assert pool.lease(SHAPE) is None
    assert caplog.messages == [
        "no shared memory for 4 images (OSError: [Errno 28] No space left on device); they go through pipes, "
        "which is slower"
    ]
    with pytest.raises(BackendError, match=r"^worker processes need shared memory, .*; --workers 0 decodes"):
        ProcessPool(1, 30.0)


RUN = """
import sys, time
from cfcam_gpu.dataset.execution.pool import ProcessPool
from cfcam_gpu.images.preprocess import PUBLISHED_PREPROCESS
from cfcam_gpu.images.read_options import ReadOptions
pool = ProcessPool(2, 600)
block = pool.lease((64, 224, 224, 3))
def views():
    tasks = [
        (sys.argv[1], PUBLISHED_PREPROCESS, None, "full", ReadOptions(), block.slot(i)) for i in range(64)
    ]
    results = pool.submit_all("view", tasks)
    assert results.wait(60)
    return results.values()
views()
print(*[worker.process.pid for worker in pool._workers], flush=True)
sys.stdin.readline()
print(sum(type(view).__name__ == "PlacedView" for view in views()), flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("victim", ["main", "worker"])
def test_no_kill_leaves_shared_memory_behind(tmp_path: Path, victim: str) -> None:
    """A process that has the memory is seen in /proc; its files have no name, in /dev/shm or elsewhere."""
    folder = save(tmp_path / "in", a=photo(1))
    environment = {**os.environ, "PYTHONPATH": str(Path(cfcam_gpu.__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, "-c", RUN, str(folder / "a.png")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as main:
        assert main.stdin is not None
        assert main.stdout is not None
        workers = [int(pid) for pid in main.stdout.readline().split()]
        # One worker may have done all the work while the other one was still being started.
        wait_until(lambda: all(maps_memory(pid) for pid in (main.pid, *workers)), WAIT)
        assert not named_files((main.pid, *workers))
        if victim == "worker":
            os.kill(workers[0], signal.SIGKILL)
            wait_until(lambda: not is_alive(workers[0]))
            main.stdin.write("\n")
            main.stdin.flush()
            assert int(main.stdout.readline()) >= 63  # at most the task of that moment failed
        main.kill()
    wait_until(lambda: not any(map(is_alive, workers)), 10)
    assert not any(map(maps_memory, (main.pid, *workers)))


def maps_memory(pid: int) -> bool:
    """Whether a process has the shared memory of this package."""
    try:
        return "/memfd:cfcam" in Path(f"/proc/{pid}/maps").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def named_files(pids: tuple[int, ...]) -> list[str]:
    """The shared memory of processes that has a name in /dev/shm."""
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    return [line for line in lines if "/dev/shm/" in line]
