"""Ctrl-C ends `cfcam explain` promptly in every method, in a real process; the finished rows stay."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cfcam_gpu.dataset import open_results
from cfcam_gpu.dataset.store.store import Store
from cfcam_gpu.methods import METHODS
from tests.helpers.launcher import Launcher, is_alive, wait_until
from tests.helpers.smallnet import photo, save

#: Two layers, the second with 64 channels. Once a part is stored, a pass takes 0.05 s for each of its images,
#: and adds the time of its start to a file beside the output folder.
MODEL = """
import sys
import time
from pathlib import Path

import torch
from torch import nn

OUT = sys.argv[sys.argv.index("--out") + 1]


class Slow(nn.Sequential):
    def forward(self, images):
        if list(Path(OUT).glob("shards/part-*")):
            with open(OUT + ".passes", "a") as file:
                file.write(f"{time.monotonic()}\\n")
            time.sleep(0.05 * len(images))
        return super().forward(images)


def make():
    torch.manual_seed(5)
    return Slow(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 64, 3, stride=2, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 3),
    )
"""

#: Images of a batch, by default, and of a part: Score-CAM's passes of a batch take 50 s.
BATCH = 16

#: Most seconds from the signal to the end of the process, and what other work of the machine may add to them.
PROMPT, LOAD = 2.0, 3.0


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("interruption")
    (folder / "slownet.py").write_text(MODEL)
    save(folder / "in", **{f"{i:02}": photo(i) for i in range(3 * BATCH)})
    return folder


@pytest.fixture(scope="module")
def cfcam(work: Path) -> Iterator[Launcher]:
    launcher = Launcher(work)
    yield launcher
    launcher.close()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_ctrl_c_ends_a_run_within_two_seconds_and_keeps_the_finished_rows(work, cfcam, method):
    out, passes = work / method, work / f"{method}.passes"
    options = ["--method", method, "--layer", "3", "--part-size", str(BATCH), "--workers", "0"]
    if METHODS[method].has_engines:
        options += ["--engine", "torch"]
    process = cfcam.start(
        "explain", "in", "--model", "py:slownet:make", "--size", "32", "--device", "cpu", "--overlays", "none",
        *options, "--out", method,
    )  # fmt: skip
    wait_until(lambda: passes.exists() or not is_alive(process.pid), 120)
    time.sleep(0.2)  # into the pass
    sent = time.monotonic()
    process.kill(signal.SIGINT)
    ended = process.wait()
    seconds = time.monotonic() - sent
    assert ended.status == 130, ended.err
    assert ended.err.splitlines()[-1].startswith("interrupted; what is finished is kept")
    started_later = [line for line in passes.read_text().split() if float(line) > sent]
    assert len(started_later) <= 1
    assert seconds < PROMPT + LOAD
    finished = len(Store(out).finished_parts())
    assert 1 <= finished < 3
    rows = list(open_results(out).rows())
    assert [row["sample_id"] for row in rows] == [f"{i:02}.png" for i in range(finished * BATCH)]
    assert {row["status"] for row in rows} == {"ok"}
