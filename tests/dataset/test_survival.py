"""Runs that are killed, interrupted, starved and disturbed, in processes of their own: nothing lost, nothing twice."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from cfcam_gpu.dataset import open_results
from cfcam_gpu.dataset.store.store import Store
from tests.helpers.launcher import Launcher, Process, is_alive, wait_until
from tests.helpers.smallnet import photo, save

FACTORY = """
import torch
from torch import nn

def make():
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 3)
    )
"""
COUNT, BAD = 60, {7, 31}
PREPARED = ("--size", "32", "--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25")
MODEL = ("--model", "py:tinynet:make", *PREPARED, "--device", "cpu", "--engine", "torch")
EXPLAIN = ("explain", "in", *MODEL, "--part-size", "4", "--batch-size", "4", "--workers", "1")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and `in/`: 60 small pictures, two of which cannot be decoded."""
    folder = tmp_path_factory.mktemp("survival")
    (folder / "tinynet.py").write_text(FACTORY)
    save(folder / "in", **{f"{i:03}": b"" if i in BAD else photo(i) for i in range(COUNT)})
    return folder


@pytest.fixture(scope="module")
def cfcam(work: Path) -> Iterator[Launcher]:
    launcher = Launcher(work)
    yield launcher
    launcher.close()


@pytest.fixture(scope="module")
def whole(work: Path, cfcam: Launcher) -> tuple[pa.Table, dict[str, bytes]]:
    """Rows and pictures of a run that nothing disturbed."""
    ended = cfcam.run(*EXPLAIN, "--out", "whole")
    assert ended.status == 3, ended.err
    return open_results(work / "whole").table(), pictures(work / "whole")


def pictures(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("*.png")}


def wait_for_parts(process: Process, out: Path, count: int) -> None:
    wait_until(lambda: len(Store(out).finished_parts()) >= count or not is_alive(process.pid))


def assert_same(out: Path, whole: tuple[pa.Table, dict[str, bytes]]) -> None:
    assert open_results(out).table().equals(whole[0])
    assert pictures(out) == whole[1]


def assert_clean(out: Path) -> None:
    """Nothing that has no name yet is left."""
    assert not list(out.glob(".cfcam/temporary-*"))
    assert not list(out.rglob("*.part"))


@pytest.mark.slow
def test_thirty_kills_at_random_moments_lose_and_repeat_nothing(work, cfcam, whole):
    rng, kills, rounds, midway, workers = random.Random(4), 0, 0, 0, []
    start = time.monotonic()
    assert cfcam.run(*EXPLAIN, "--out", "undisturbed").status == 3
    duration = time.monotonic() - start
    while kills < 30:
        rounds += 1
        out = work / f"killed{rounds}"
        while kills < 30:
            process = cfcam.start(*EXPLAIN, "--out", str(out))
            time.sleep(rng.uniform(0.0, duration))
            workers += process.children()
            process.kill(signal.SIGKILL)
            if process.wait().status != -signal.SIGKILL:
                break
            kills += 1
            done = sorted(Store(out).finished_parts())
            midway += 0 < len(done) < COUNT // 4
            for part in done:
                assert Store(out).read_part(part).equals(whole[0].slice(4 * part, 4))
        ended = cfcam.run(*EXPLAIN, "--out", str(out))
        assert ended.status == 3, ended.err
        assert_same(out, whole)
        assert_clean(out)
        shutil.rmtree(out)
    assert midway >= 5, f"only {midway} of the kills met a run that had begun and not ended"
    assert workers
    wait_until(lambda: not any(map(is_alive, workers)))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_with_its_status_and_the_next_one_resumes(work, cfcam, whole, number, status):
    out = work / f"signal{status}"
    process = cfcam.start(*EXPLAIN, "--out", str(out))
    wait_for_parts(process, out, 3)
    workers = process.children()
    process.kill(number)
    for worker in workers:  # a terminal and a job's end send it to the whole group
        os.kill(worker, number)
    ended = process.wait()
    assert ended.status == status
    assert ended.out == ""
    assert (
        ended.err.splitlines()[-1]
        == "interrupted; what is finished is kept, the same command goes on from there"
    )
    assert 3 <= len(Store(out).finished_parts()) < 15
    assert_clean(out)
    wait_until(lambda: not any(map(is_alive, workers)))
    ended = cfcam.run(*EXPLAIN, "--out", str(out), "--json")
    assert ended.status == 3
    assert re.match(r"\d+ of 60 samples were done before, \d failed", ended.err)
    content = json.loads(ended.out)
    assert content["counts"]["ok"] == COUNT - 2
    assert content["samples"] == COUNT
    assert 12 <= content["done_before"] < COUNT
    assert_same(out, whole)


@pytest.fixture
def small_disk(work: Path) -> Iterator[Path]:
    """A file system that holds a few parts but not all."""
    folder = work / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=96k", "cfcam-test", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("a file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_ends_the_run_in_one_line_and_room_lets_it_complete(cfcam, whole, small_disk):
    out = small_disk / "out"
    command = (*EXPLAIN, "--out", str(out), "--overlays", "none")
    ended = cfcam.run(*command)
    assert ended.status == 1
    *skipped, line = ended.err.splitlines()
    assert all(text.startswith("skipped ") for text in skipped)
    assert re.match(
        r"error: cannot write .*: No space left on device; what is done so far is kept, the same", line
    )
    assert 0 < len(Store(out).finished_parts()) < 15
    assert_clean(out)
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    assert cfcam.run(*command).status == 3
    same = [name for name in whole[0].column_names if name != "overlay"]
    assert open_results(out).table(same).equals(whole[0].select(same))


def test_a_part_too_large_for_the_disk_is_not_half_written(work, cfcam, whole):
    out, command = work / "limited", (*EXPLAIN, "--out", "limited")
    ended = cfcam.run(*command, limit=7_000)
    assert ended.status == 1
    assert re.search(
        r"^error: cannot write limited/.*: File too large; what is done so far is kept", ended.err, re.M
    )
    assert_clean(out)
    assert cfcam.run(*command).status == 3
    assert_same(out, whole)


def test_files_that_vanish_midway_become_error_rows(work, cfcam, whole):
    shutil.copytree(work / "in", work / "vanishing")
    out = work / "vanished"
    process = cfcam.start(EXPLAIN[0], "vanishing", *EXPLAIN[2:], "--out", str(out))
    wait_for_parts(process, out, 1)
    shutil.rmtree(work / "vanishing")
    ended = process.wait()
    rows = list(open_results(out).rows()) if ended.status == 3 else []
    failed = [row for row in open_results(out).rows() if row["status"] == "error"]
    assert ended.status in (3, 4), ended.err
    assert ended.status == 4 or len(rows) == COUNT
    assert {row["error_type"] for row in failed} <= {"FileNotFoundError", "ImageError"}
    assert "the file does not exist" in ended.err
    shutil.copytree(work / "in", work / "vanishing")
    again = cfcam.run(EXPLAIN[0], "vanishing", *EXPLAIN[2:], "--out", str(out), "--retry-failed")
    assert again.status == 3, again.err
    found, expected = open_results(out), whole[0]
    for column in ("sample_id", "status", "pred", "overlay", "message"):
        assert found.table([column])[column].equals(expected[column])


def test_killed_and_stopped_workers_cost_their_sample_and_no_more(work, cfcam, whole):
    out = work / "workers"
    command = (*EXPLAIN, "--out", str(out), "--sample-timeout", "1.5")
    process = cfcam.start(*command)
    wait_for_parts(process, out, 2)
    first = process.children()
    os.kill(first[0], signal.SIGKILL)
    wait_until(lambda: set(process.children()) - set(first) or not is_alive(process.pid))
    wait_for_parts(process, out, 6)
    second = [pid for pid in process.children() if pid not in first]
    os.kill(second[0], signal.SIGSTOP)
    ended = process.wait()
    assert ended.status == 3, ended.err
    table = open_results(out).table()
    assert table["sample_id"].equals(whole[0]["sample_id"])
    disturbed = [row for row in table.to_pylist() if row["error_type"] in ("WorkerDied", "Timeout")]
    assert len(disturbed) <= 2
    assert all(row["stage"] in ("decode", "write") for row in disturbed)
    assert any("not done after 1.5 s" in row["message"] for row in disturbed)
    assert cfcam.run(*command, "--retry-failed").status == 3
    columns = ["sample_id", "status", "pred", "blank", "overlay", "message"]
    assert open_results(out).table(columns).equals(whole[0].select(columns))


def test_a_second_run_at_once_is_refused_and_a_kill_leaves_no_lock(work, cfcam, whole):
    out = work / "twice"
    process = cfcam.start(*EXPLAIN, "--out", str(out))
    wait_for_parts(process, out, 1)
    process.kill(signal.SIGSTOP)
    second = cfcam.run(*EXPLAIN, "--out", str(out))
    assert second.status == 1
    assert re.match(
        rf"error: .*twice is being written by another run \(process {process.pid} on ", second.err
    )
    process.kill(signal.SIGKILL)
    process.wait()
    assert cfcam.run(*EXPLAIN, "--out", str(out)).status == 3
    assert_same(out, whole)


def test_processes_share_a_folder_and_the_rest_is_done_when_one_is_killed(work, cfcam, whole):
    out = work / "shared"
    command = (*EXPLAIN, "--out", str(out), "--world-size", "3", "--rank")
    processes = [cfcam.start(*command, str(index)) for index in range(3)]
    wait_for_parts(processes[2], out, 2)
    processes[2].kill(signal.SIGKILL)
    ended = [process.wait() for process in processes]
    assert [e.status in (0, 3) for e in ended[:2]] == [True, True], ended
    assert "this process is number 0 of 3 (from 0) that share" in ended[0].err
    assert cfcam.run(*command, "2").status in (0, 3)
    assert cfcam.run(*EXPLAIN, "--out", str(out)).status == 3
    assert_same(out, whole)


def test_too_many_errors_end_with_4_and_keep_what_is_finished(work, cfcam):
    ended = cfcam.run(*EXPLAIN, "--out", "hopeless", "--max-errors", "1")
    assert ended.status == 4
    assert ended.err.splitlines()[-1].startswith("error: stopped: 2 of ")
    assert len(Store(work / "hopeless").finished_parts()) == 7
    again = cfcam.run(*EXPLAIN, "--out", "hopeless", "--max-errors", "2")
    assert again.status == 3


@pytest.mark.slow
def test_memory_does_not_grow_with_the_dataset(work, cfcam):
    def peak(count: int) -> int:
        manifest = work / f"{count}.csv"
        lines = [f"in/000.png,s{i}" for i in range(count)]
        manifest.write_text("\n".join(["path,sample_id", *lines]))
        options = (*MODEL, "--overlays", "none", "--workers", "1", "--batch-size", "16")
        ended = cfcam.run("explain", manifest.name, *options, "--out", f"memory{count}")
        assert ended.status == 0, ended.err
        assert len(open_results(work / f"memory{count}")) == count
        return ended.peak

    assert peak(2000) <= 1.05 * peak(500)
