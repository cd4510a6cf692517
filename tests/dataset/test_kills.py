"""Runs of slow images that are killed at random moments: what is lost of the work that was finished.

`CFCAM_KILLS` is the number of kills, `CFCAM_KILLS_FILE` a file for the figures; `make kills` sets both. An image is
finished when its picture is there. It is lost if the next run explains it again; the seconds lost are from the oldest
such picture to the kill.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bench.common import environment
from cfcam_gpu.dataset.store.journal import WRITE_EVERY, Journals, run_token
from cfcam_gpu.dataset.store.store import Store
from tests.helpers.launcher import Ended, Launcher, Process, is_alive, wait_until
from tests.helpers.smallnet import SLOW_FACTORY, photo, save

KILLS = int(os.environ.get("CFCAM_KILLS", "15"))
COUNT, BATCH, BAD = 120, 4, {7, 31, 90}

EXPLAIN = (
    "explain", "in", "--model", "py:slownet:make", "--size", "32", "--device", "cpu", "--engine", "torch",
    "--batch-size", str(BATCH), "--workers", "1", "--max-errors", "100",
)  # fmt: skip


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a slow model and `in/`: small pictures that are one part, some of which cannot be decoded."""
    folder = tmp_path_factory.mktemp("kills")
    (folder / "slownet.py").write_text(SLOW_FACTORY)
    save(folder / "in", **{f"{i:03}": b"" if i in BAD else photo(i) for i in range(COUNT)})
    return folder


@pytest.fixture(scope="module")
def cfcam(work: Path) -> Iterator[Launcher]:
    launcher = Launcher(work)
    yield launcher
    launcher.close()


@pytest.fixture(scope="module")
def whole(work: Path, cfcam: Launcher) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Bytes of the parts and pictures of a run that nothing disturbed."""
    ended = cfcam.run(*EXPLAIN, "--out", "whole")
    assert ended.status == 3, ended.err
    return contents(work / "whole")


def contents(out: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    parts = {path.name: path.read_bytes() for path in (out / "shards").glob("*")}
    return parts, {path.name: path.read_bytes() for path in out.glob("*.png")}


def kept(out: Path) -> dict[str, str]:
    """The pictures of finished rows -> status; of a run with one part. Failed rows have their ids."""
    store = Store(out)
    if not store.run_file.exists() or not store.plan_file.exists():
        return {}
    samples = store.read_plan().samples(0)
    rows = dict(enumerate(store.read_rows(0))) if store.finished_parts() else None
    rows = Journals(store, (8, 8), run_token(store)).rows(0, samples) if rows is None else rows
    return {row.get("overlay") or row["sample_id"]: row["status"] for row in rows.values()}


@dataclass
class Losses:
    """Of each kill: rows that were finished and are to be explained again, and the seconds since the oldest."""

    kept: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, out: Path, killed: float) -> None:
        rows = kept(out)
        lost = [path.stat().st_mtime for path in out.glob("*.png") if path.name not in rows]
        self.kept.append(len(rows))
        self.rows.append(len(lost))
        self.seconds.append(max(0.0, killed - min(lost)) if lost else 0.0)

    def figures(self) -> dict[str, float]:
        return {
            "kills": len(self.rows),
            "kills_with_finished_rows": sum(map(bool, self.kept)),
            "rows_lost_most": max(self.rows),
            "rows_lost_median": statistics.median(self.rows),
            "seconds_lost_most": round(max(self.seconds), 2),
            "seconds_lost_median": round(statistics.median(self.seconds), 2),
        }


def begun(ended: Ended) -> int:
    """How many samples a run found done."""
    found = re.search(r"^(\d+) of \d+ samples were done before", ended.err, re.M)
    return int(found[1]) if found else 0


def wait_for_pictures(process: Process, out: Path, count: int) -> None:
    wait_until(lambda: len(list(out.glob("*.png"))) >= count or not is_alive(process.pid), 100)


def test_kills_at_random_moments_cost_a_second_and_some_batches(work, cfcam, whole):
    rng, losses, out, runs, again = random.Random(7), Losses(), work / "killed", 0, 0
    while len(losses.rows) < KILLS:
        process = cfcam.start(*EXPLAIN, "--out", "killed")
        if rng.random() < 0.75:  # else it may be killed before it has begun
            wait_for_pictures(process, out, len(list(out.glob("*.png"))) + 1)
        time.sleep(rng.uniform(0.0, 4.0))
        if is_alive(process.pid):
            process.kill(signal.SIGKILL)
            killed = time.time()
        ended = process.wait()
        before = losses.kept[-1] if losses.kept and not runs else 0
        if ended.err:
            assert begun(ended) in (0, before), "a row that was kept is explained again"
        if ended.status == -signal.SIGKILL:
            losses.add(out, killed)
            again += losses.rows[-1]
            runs = 0
            continue
        assert ended.status == 3, ended.err
        assert contents(out) == whole
        shutil.rmtree(out)
        runs = 1
    ended = cfcam.run(*EXPLAIN, "--out", "killed")
    assert ended.status == 3, ended.err
    assert contents(out) == whole
    ids = [row["sample_id"] for row in Store(out).read_rows(0)]
    wrong = {"lost_for_good": COUNT - len(set(ids)), "twice": len(ids) - len(set(ids))}
    figures = {**losses.figures(), **wrong, "explained_again": again}
    print(json.dumps(figures))
    if "CFCAM_KILLS_FILE" in os.environ:
        record = {"benchmark": "kills", **figures, "environment": environment()}
        Path(os.environ["CFCAM_KILLS_FILE"]).write_text(json.dumps(record, indent=2) + "\n")
    assert wrong == {"lost_for_good": 0, "twice": 0}
    assert figures["kills_with_finished_rows"] >= KILLS // 4
    # The last second, and two batches: the one that is explained, and the one whose pictures are being written.
    assert all(
        rows <= 2 * BATCH or seconds <= 10 * WRITE_EVERY
        for rows, seconds in zip(losses.rows, losses.seconds, strict=True)
    )
    assert max(losses.rows) <= 64


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_loses_no_finished_row(work, cfcam, whole, number):
    name = f"signal{int(number)}"
    process, out = cfcam.start(*EXPLAIN, "--out", name), work / name
    wait_for_pictures(process, out, 30)
    process.kill(number)
    ended = process.wait()
    assert ended.status == 128 + number
    assert "what is finished is kept" in ended.err
    rows, pictures = kept(out), {path.name for path in out.glob("*.png")}
    assert len(rows) >= 30
    assert len(pictures - set(rows)) <= BATCH  # of a batch of which some were being written
    ended = cfcam.run(*EXPLAIN, "--out", name)
    assert begun(ended) == len(rows)
    assert contents(out) == whole


def test_a_full_disk_loses_no_finished_row(work, cfcam, whole):
    """A file may not be longer than a few blocks of rows, as on a disk that is nearly full."""
    out = work / "full"
    ended = cfcam.run(*EXPLAIN, "--out", "full", limit=30_000)
    assert ended.status == 1
    assert re.search(
        r"^error: cannot write full/.*File too large; what is done so far is kept", ended.err, re.M
    )
    rows = kept(out)
    lost = [path for path in out.glob("*.png") if path.name not in rows]
    assert 20 <= len(rows) < COUNT
    assert len(lost) <= 64
    ended = cfcam.run(*EXPLAIN, "--out", "full")
    assert (ended.status, begun(ended)) == (3, len(rows))
    assert contents(out) == whole


def test_ranks_write_ahead_and_another_number_of_ranks_goes_on(work, cfcam, whole):
    options, out = ("--out", "ranks", "--part-size", "60"), work / "ranks"
    undisturbed = cfcam.run(*EXPLAIN, "--out", "undisturbed", "--part-size", "60")
    assert undisturbed.status == 3, undisturbed.err
    processes = [cfcam.start(*EXPLAIN, *options, "--world-size", "2", "--rank", str(i)) for i in range(2)]
    wait_until(lambda: len(list(out.glob(".cfcam/ahead/*.rows"))) == 2, 100)
    for process in processes:
        process.kill(signal.SIGKILL)
        process.wait()
    assert not Store(out).finished_parts()
    ended = cfcam.run(*EXPLAIN, *options)
    assert ended.status == 3, ended.err
    assert begun(ended) > 0
    assert contents(out) == contents(work / "undisturbed")
    assert contents(out)[1] == whole[1]
