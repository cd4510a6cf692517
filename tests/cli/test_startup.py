"""The command starts quickly, and Ctrl-C ends it in one line from the first moment on."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import cfcam_gpu
from tests.helpers.command import FAILED, INTERRUPTED, OK, USAGE

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(cfcam_gpu.__file__).parents[1]), "COLUMNS": "100"}

#: Packages that take long to import.
HEAVY = ("torch", "numpy", "cv2", "pyarrow", "PIL", "numba", "rich.progress")

#: What makes an answer quick: no heavy package was imported when the command ends.
LISTED = f"""
import atexit, sys
atexit.register(lambda: print("imported:", *(name for name in {HEAVY!r} if name in sys.modules)))
from cfcam_gpu.cli import main
main()
"""

#: Seconds of CPU (0.4 on an idle machine; twice that, since others may use the machine at the same time).
LIMIT = 0.8

QUICK = [
    (["--version"], OK),
    (["--help"], OK),
    (["explain", "--help"], OK),
    (["evaluate", "--help"], OK),
    (["layers", "-h"], OK),
    (["paint"], USAGE),
    (["explain", "photos"], USAGE),
    (["explain", "photos", "--out", "out", "--colour", "red"], USAGE),
    (["explain", "photos", "--out", "out", "--method", "gradcan"], USAGE),
    (["explain", "photos", "--out", "out", "--engine", "warp"], USAGE),
    (["explain", "photos", "--out", "out", "--size", "2x"], USAGE),
    (["evaluate", "photos", "--out", "out", "--metrics", "dorp"], USAGE),
    (["explain", "nowhere", "--out", "out"], FAILED),
    (["explain", ".", "*.nothing", "--out", "out"], FAILED),
    (["explain", "{.,nowhere}", "--out", "out"], FAILED),
    (["explain", ".", "--out", "out", "--weights", "none.pth"], FAILED),
    (["explain", ".", "--out", "out", "--class-names", "none.txt"], FAILED),
    (["evaluate", "nowhere", "--out", "out"], FAILED),
    (["layers", "torchvision:resnet18", "--weights", "none.pth"], FAILED),
]


@pytest.mark.parametrize(
    ("arguments", "status"),
    QUICK,
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_help_and_mistakes_are_answered_without_pytorch(arguments: list[str], status: int):
    command = [sys.executable, "-c", LISTED, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert ended.returncode == status, ended.stderr
    assert ended.stdout.splitlines()[-1] == "imported:"


@pytest.mark.parametrize(
    "arguments", [["--version"], ["--help"], ["explain", "--help"], ["explain", "a", "--bad"]], ids=" ".join
)
def test_help_and_mistakes_cost_little(arguments: list[str]):
    def cost() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "cfcam_gpu", *arguments], capture_output=True, env=ENVIRONMENT)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(cost() for _ in range(3)) < LIMIT


#: Runs the command, and raises SIGINT in this process in the middle of the import of a module.
INTERRUPTED_IMPORT = """
import os, signal, sys
module = sys.argv.pop(1)
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
from cfcam_gpu.cli import main
main()
"""


@pytest.mark.parametrize(
    "module", ["click", "cfcam_gpu.cli.doctor", "torch", "torch.nn", "numpy", "cfcam_gpu.explainer", "kornia"]
)
def test_an_interrupt_inside_an_import_ends_in_one_line(module: str):
    command = [sys.executable, "-c", INTERRUPTED_IMPORT, module, "doctor"]
    ended = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (INTERRUPTED, "", 1)
    assert ended.stderr.startswith("interrupted")


@pytest.mark.parametrize("seconds", [0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.0])
def test_an_interrupt_at_any_moment_ends_in_one_line(seconds: float):
    """`doctor` imports everything and then explains; the clock starts when the entry point is called."""
    command = [sys.executable, "-c", "from cfcam_gpu.cli import main; print(flush=True); main()", "doctor"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    if process.returncode != OK or seconds < 1:  # later it may have been faster than the signal
        assert (process.returncode, error.count("\n")) == (INTERRUPTED, 1)
        assert error.startswith("interrupted")
