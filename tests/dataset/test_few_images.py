"""A run over a few images loads nothing that it does not use, and stores the rows of any other run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import cfcam_gpu
from cfcam_gpu.dataset import open_results
from cfcam_gpu.dataset.execution import in_process
from cfcam_gpu.dataset.execution.pool import ProcessPool, ThreadPool, make_pool
from cfcam_gpu.dataset.execution.worker import Failure
from cfcam_gpu.dataset.options import FEW_SAMPLES
from tests.helpers.smallnet import photo, rows, run, save

#: Packages that a run over one image on the CPU does without. Each takes 0.1 to 2 seconds to import.
UNUSED = (
    "torchvision", "torch._dynamo", "torch._inductor", "sympy", "numba", "scipy", "sklearn", "pandas",
    "pyarrow.compute", "pyarrow.dataset", "jinja2", "matplotlib", "ray", "timm",
)  # fmt: skip

LISTED = f"""
import atexit, sys
atexit.register(lambda: print("imported:", *(name for name in {UNUSED!r} if name in sys.modules)))
from cfcam_gpu.cli import main
main()
"""


def test_one_image_imports_only_what_it_uses(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    folder = save(tmp_path / "in", a=photo(1))
    command = [sys.executable, "-c", LISTED, "explain", str(folder), "--out", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(Path(cfcam_gpu.__file__).parents[1])}
    ended = subprocess.run(
        [*command, "--device", "cpu"], capture_output=True, text=True, env=environment, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "imported:"


def test_importing_the_package_and_its_first_name_imports_little_more_than_pytorch() -> None:
    program = (
        "import torch, sys; before = set(sys.modules); from cfcam_gpu import CFCAM; "
        f"print(*({UNUSED!r} & (set(sys.modules) - before)))"
    ).replace(repr(UNUSED), f"set({UNUSED!r})")
    environment = {**os.environ, "PYTHONPATH": str(Path(cfcam_gpu.__file__).parents[1])}
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert out.stdout == "\n", out.stderr


def test_the_number_of_samples_chooses_the_engine_and_where_images_are_decoded(tmp_path: Path) -> None:
    few = save(tmp_path / "few", **{f"p{i}": photo(i) for i in range(FEW_SAMPLES)})
    many = save(tmp_path / "many", **{f"p{i}": photo(i) for i in range(FEW_SAMPLES + 1)})
    assert run(few, tmp_path / "a", workers=None).engine == "torch"
    assert run(few, tmp_path / "b", workers=1, engine="numba").engine == "numba"
    assert run(many, tmp_path / "c", workers=1).engine == "numba"
    assert open_results(tmp_path / "a").run["info"]["engine"] == "torch"
    first, second, third = (rows(tmp_path / out) for out in "abc")
    for row, by_worker, of_many in zip(first, second, third, strict=False):
        assert row["sample_id"] == by_worker["sample_id"] == of_many["sample_id"]
        for other in (by_worker, of_many):
            assert row["n_clusters"] == other["n_clusters"]
            assert row["noise_fraction"] == other["noise_fraction"]
            np.testing.assert_allclose(row["grid"], other["grid"], rtol=0, atol=1e-4 * row["grid"].max())
    for i in range(FEW_SAMPLES):
        name = f"p{i}_cfcam.png"
        assert (tmp_path / "a" / name).is_file()
        assert (tmp_path / "b" / name).is_file()


def test_a_thread_stores_what_worker_processes_store(tmp_path: Path) -> None:
    folder = save(tmp_path / "in", a=photo(1), b=b"no image", c=photo(2))
    run(folder, tmp_path / "thread", workers=None)
    run(folder, tmp_path / "process", workers=1)
    for by_thread, by_process in zip(rows(tmp_path / "thread"), rows(tmp_path / "process"), strict=True):
        np.testing.assert_equal(by_thread, by_process)
    for name in "ac":
        file = f"{name}_cfcam.png"
        assert (tmp_path / "thread" / file).read_bytes() == (tmp_path / "process" / file).read_bytes()


def test_few_samples_get_a_thread_unless_workers_were_asked_for() -> None:
    for workers, samples, kind in (
        (None, FEW_SAMPLES, ThreadPool),
        (None, FEW_SAMPLES + 1, ProcessPool),
        (None, None, ProcessPool),
        (1, 1, ProcessPool),
    ):
        pool = make_pool(workers, 60.0, samples)
        pool.close()
        assert isinstance(pool, kind)


def test_a_task_of_a_thread_has_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def perform(task: str) -> str:
        time.sleep(30 if task == "hang" else 0)
        return task

    monkeypatch.setattr(in_process, "perform", perform)
    pool = ThreadPool(timeout=0.2)
    futures = [pool.submit(task) for task in ("a", "hang", "b")]
    assert [future.result(20) for future in futures] == [
        "a",
        Failure(None, "Timeout", "not done after 0.2 s"),
        "b",
    ]
    start = time.monotonic()
    pool.close()
    assert time.monotonic() - start < 2


def test_ctrl_c_ends_a_run_that_decodes_in_a_thread_within_two_seconds(tmp_path: Path) -> None:
    """The thread is stuck in an image; the shortest of three tries counts, since the machine may be busy."""
    folder = save(tmp_path / "in", a=photo(1), hang=photo(2))
    (tmp_path / "tinynet.py").write_text(
        "from tests.helpers.smallnet import make_loaded\ndef make():\n    return make_loaded().model\n"
    )
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys, time\n"
        "def hook(event, arguments):\n"
        "    if event == 'open' and os.path.basename(str(arguments[0])) == 'hang.png':\n"
        "        print('stuck', flush=True)\n"
        "        time.sleep(1000)\n"
        "sys.addaudithook(hook)\n"
    )
    path = os.pathsep.join([str(tmp_path), str(Path(cfcam_gpu.__file__).parents[1])])
    options = ("--model", "py:tinynet:make", "--size", "32", "--device", "cpu", "--batch-size", "1")
    seconds = []
    for out in ("first", "second", "third"):
        with subprocess.Popen(
            [
                sys.executable,
                "-m",
                "cfcam_gpu",
                "explain",
                str(folder),
                "--out",
                str(tmp_path / out),
                *options,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
            cwd=tmp_path,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "stuck\n"
            start = time.monotonic()
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
            seconds.append(time.monotonic() - start)
        assert process.returncode == 130, err
        assert err.splitlines()[-1].startswith("interrupted; what is finished is kept"), err
    assert min(seconds) < 2, seconds
