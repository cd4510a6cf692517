"""Worker processes: what they give, and that one which dies, hangs or cannot start harms nothing else."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cfcam_gpu
from cfcam_gpu.dataset.execution import pool as pools
from cfcam_gpu.dataset.execution.pool import InlinePool, ProcessPool
from cfcam_gpu.dataset.execution.worker import Failure, OverlayStyle
from cfcam_gpu.errors import BackendError
from cfcam_gpu.images.overlay import draw_overlay, fit_heatmap, upsample_grid
from cfcam_gpu.images.views import View
from tests.helpers.launcher import is_alive, wait_until
from tests.helpers.smallnet import PLAIN, photo, save

WAIT = 60


@pytest.fixture
def make() -> Iterator[Callable[..., ProcessPool]]:
    """Pools that are closed in the end."""
    made: list[ProcessPool] = []

    def pool(workers: int = 1, timeout: float = 30.0) -> ProcessPool:
        made.append(ProcessPool(workers, timeout))
        return made[-1]

    yield pool
    for one in made:
        one.close()


@pytest.fixture
def traps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """In new processes, reading hang.png never ends, slow.png takes 0.2 s, die.png and exit.png are fatal."""
    (tmp_path / "hooks").mkdir()
    (tmp_path / "hooks/sitecustomize.py").write_text(
        "import os, signal, sys, time\n"
        "TRAPS = {'hang.png': lambda: time.sleep(1000), 'exit.png': lambda: os._exit(7),\n"
        "         'slow.png': lambda: time.sleep(0.2),\n"
        "         'die.png': lambda: os.kill(os.getpid(), signal.SIGKILL)}\n"
        "def hook(event, arguments):\n"
        "    if event == 'open':\n"
        "        TRAPS.get(os.path.basename(str(arguments[0])), lambda: None)()\n"
        "sys.addaudithook(hook)\n"
    )
    path = os.pathsep.join([str(tmp_path / "hooks"), str(Path(cfcam_gpu.__file__).parents[1])])
    monkeypatch.setenv("PYTHONPATH", path)
    return {**os.environ}


@pytest.mark.parametrize("workers", [0, 2])
def test_views_are_those_of_the_preprocessing(make, tmp_path, workers):
    folder = save(tmp_path / "in", a=photo(1), b=b"no image", c=photo(2, (31, 77)))
    pool = make(workers) if workers else InlinePool()
    uris = [str(folder / f"{name}.png") for name in "abc"] + [str(tmp_path / "gone.png")]
    a, b, c, gone = (f.result(WAIT) for f in [pool.submit("view", uri, PLAIN) for uri in uris])
    for view, image in ((a, photo(1)), (c, photo(2, (31, 77)))):
        assert isinstance(view, View)
        np.testing.assert_array_equal(view.pixels, PLAIN.view(image))
        assert (view.width, view.height) == image.size
    assert b == Failure("decode", "UnidentifiedImageError", "not an image that can be read")
    assert gone == Failure("read", "FileNotFoundError", "the file does not exist", 2)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_overlay_is_written_whole_or_told(make, tmp_path, workers):
    folder, out = save(tmp_path / "in", a=photo(1)), tmp_path / "out"
    grid = np.random.default_rng(0).random((4, 5)).astype(np.float32) * 30
    pool = make(workers) if workers else InlinePool()
    style = OverlayStyle("png", "jet", 0.3)
    (out / "taken.png").mkdir(parents=True)
    (tmp_path / "temporary").mkdir()

    def write(name: str) -> Any:
        place = (out, name, tmp_path / "temporary", style)
        return pool.submit("overlay", str(folder / "a.png"), PLAIN, grid, *place).result(WAIT)

    assert write("sub/a.png") is None
    fitted = fit_heatmap(upsample_grid(grid, PLAIN.size), (0, 0, 60, 45), 60, 45)
    np.testing.assert_array_equal(
        np.asarray(Image.open(out / "sub/a.png")), draw_overlay(np.asarray(photo(1)), fitted, "jet", 0.3)
    )
    taken = write("taken.png")
    assert (taken.stage, taken.error_type, taken.message) == ("write", "IsADirectoryError", "Is a directory")
    for name in ("../out.png", "/tmp/x.png"):
        assert "leads out of the output folder" in write(name).message
    assert list((tmp_path / "temporary").iterdir()) == []
    assert {path.name for path in out.rglob("*")} == {"sub", "a.png", "taken.png"}


@pytest.mark.usefixtures("traps")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("die", "the worker process was ended by SIGKILL (out of memory?)"),
        ("exit", "the worker process ended with status 7"),
    ],
)
def test_a_worker_that_dies_costs_one_task(make, tmp_path, name, message):
    folder = save(tmp_path / "in", a=photo(1), **{name: photo(2)}, z=photo(3))
    pool = make(1)
    futures = [pool.submit("view", str(folder / f"{n}.png"), PLAIN) for n in ("a", name, "z")]
    a, dead, z = (future.result(WAIT) for future in futures)
    assert isinstance(a, View)
    assert isinstance(z, View)
    assert dead == Failure(None, "WorkerDied", message)


@pytest.mark.usefixtures("traps")
def test_a_worker_that_hangs_is_ended_while_others_go_on(make, tmp_path):
    folder = save(tmp_path / "in", hang=photo(2), **{f"p{i}": photo(i) for i in range(6)})
    pool = make(2, timeout=2.0)
    stuck = pool.submit("view", str(folder / "hang.png"), PLAIN)
    others = [pool.submit("view", str(folder / f"p{i}.png"), PLAIN) for i in range(6)]
    assert all(isinstance(future.result(WAIT), View) for future in others)
    assert stuck.result(WAIT) == Failure(None, "Timeout", "not done after 2 s; its process was ended")


def test_a_worker_stopped_halfway_through_its_answer_holds_up_nobody_for_long(make, tmp_path, monkeypatch):
    """Its first task is answered with half a message; its successor, of the real code, does the second."""
    (tmp_path / "once").touch()
    monkeypatch.setattr(
        pools,
        "_PROGRAM",
        "import json, os, signal, struct, sys; descriptor, parent, path = json.loads(sys.argv[1]); sys.path[:] = path\n"
        "from cfcam_gpu.dataset.execution import worker\n"
        "from multiprocessing.connection import Connection\n"
        "def half(*task):\n"
        f"    os.unlink({str(tmp_path / 'once')!r})\n"
        "    os.write(descriptor, struct.pack('!i', 5000) + bytes(2000))\n"
        "    os.kill(os.getpid(), signal.SIGSTOP)\n"
        f"worker.perform = half if os.path.exists({str(tmp_path / 'once')!r}) else worker.perform\n"
        "worker.serve(descriptor, parent)",
    )
    folder, pool = save(tmp_path / "in", a=photo(1)), make(1, timeout=1.5)
    stuck, other = (pool.submit("view", str(folder / "a.png"), PLAIN) for _ in range(2))
    assert stuck.result(WAIT) == Failure(None, "Timeout", "not done after 1.5 s; its process was ended")
    assert isinstance(other.result(WAIT), View)
    assert not (tmp_path / "once").exists()


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.0, (0, 1)), (1e-9, (0, 1)), (1.5, (1, 500_000)), (60.0, (60, 0))]
)
def test_a_time_limit_is_never_endless(seconds, expected):
    assert struct.unpack("@ll", pools._timeval(seconds)) == expected


def test_processes_that_do_not_start_are_an_error_and_no_endless_wait(make, monkeypatch):
    monkeypatch.setattr(pools, "_PROGRAM", "raise SystemExit(3)")
    with pytest.raises(
        BackendError, match=r"do not start \(.*status 3\); --workers 0 decodes in this process"
    ):
        make(1).submit("view", "x", PLAIN).result(WAIT)


def test_processes_are_few_and_gone_after_closing(make, tmp_path):
    folder = save(tmp_path / "in", a=photo(1))
    pool = make(4)
    assert pool._workers == []
    pool.submit("view", str(folder / "a.png"), PLAIN).result(WAIT)
    processes = [worker.process for worker in pool._workers]
    assert len(processes) == 1
    pool.close()
    assert all(process.poll() is not None for process in processes)


def test_processes_may_start_before_their_tasks_are_there(make, tmp_path):
    folder = save(tmp_path / "in", a=photo(1))
    pool = make(3)
    pool.start(2)
    wait_until(lambda: [worker.started for worker in pool._workers] == [True, True])
    processes = [worker.process for worker in pool._workers]
    assert isinstance(pool.submit("view", str(folder / "a.png"), PLAIN).result(WAIT), View)
    assert [worker.process for worker in pool._workers] == processes
    pool.close()
    assert all(process.poll() is not None for process in processes)


def test_workers_end_with_their_parent_also_in_the_middle_of_a_task(tmp_path, traps):
    folder = save(tmp_path / "in", a=photo(1), hang=photo(2))
    code = f"""
import time
from cfcam_gpu.dataset.execution.pool import ProcessPool
from cfcam_gpu.images.preprocess import PUBLISHED_PREPROCESS
pool = ProcessPool(2, 600)
pool.submit("view", {str(folder / "hang.png")!r}, PUBLISHED_PREPROCESS)
for _ in range(9):
    pool.submit("view", {str(folder / "a.png")!r}, PUBLISHED_PREPROCESS).result(30)
print(*[worker.process.pid for worker in pool._workers], flush=True)
time.sleep(600)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=traps
    ) as parent:
        assert parent.stdout is not None
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        parent.kill()
    assert len(workers) == 2
    wait_until(lambda: not any(map(is_alive, workers)), 10)


def test_files_of_the_current_folder_are_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[..., ProcessPool]
) -> None:
    for name in ("json", "struct", "numpy", "PIL", "cv2"):
        (tmp_path / f"{name}.py").write_text("open('executed', 'w')")
    folder = save(tmp_path / "in", a=photo(1))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    view = make().submit("view", str(folder / "a.png"), PLAIN).result(WAIT)
    assert isinstance(view, View)
    assert not (tmp_path / "executed").exists()


@pytest.mark.usefixtures("traps")
def test_a_death_among_many_tasks_costs_one_and_the_rest_is_done_by_others(make, tmp_path):
    """Workers get several tasks at a time, and send results of several."""
    folder = save(tmp_path / "in", **{f"p{i:02}": photo(i) for i in range(39)}, die=photo(40), exit=photo(41))
    names = [f"p{i:02}" for i in range(39)]
    names[20:20], names[9:9] = ["exit"], ["die"]
    submitted = make(1).submit_all("view", [(str(folder / f"{name}.png"), PLAIN) for name in names])
    assert submitted.wait(WAIT)
    results = dict(zip(names, submitted.values(), strict=True))
    assert results.pop("exit") == Failure(None, "WorkerDied", "the worker process ended with status 7")
    dead = results.pop("die")
    assert (dead.error_type, dead.message[-24:]) == ("WorkerDied", "SIGKILL (out of memory?)")
    for i, (_, view) in enumerate(sorted(results.items())):
        np.testing.assert_array_equal(view.pixels, PLAIN.view(photo(i)))


@pytest.mark.usefixtures("traps")
def test_each_of_many_tasks_has_the_whole_time_limit(make, tmp_path):
    """A worker with many tasks is not ended for their sum, and is ended for one that hangs among them."""
    folder = save(tmp_path / "in", slow=photo(1), hang=photo(2))
    names = [*["slow"] * 12, "hang", *["slow"] * 11]
    pool = make(1, timeout=2.0)
    submitted = pool.submit_all("view", [(str(folder / f"{name}.png"), PLAIN) for name in names])
    assert submitted.wait(WAIT)
    results = submitted.values()
    assert [type(result) for result in results] == [Failure if name == "hang" else View for name in names]
    assert results[12] == Failure(None, "Timeout", "not done after 2 s; its process was ended")
