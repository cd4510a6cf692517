"""Starts `cfcam` many times in processes of its own without importing PyTorch each time: they are forked.

As a program: reads one JSON request a line, answers with one line each.

    {"argv": [...], "out": FILE, "err": FILE, "limit": bytes or null}   -> process id
    {"wait": PID}                                                       -> [exit status or -signal, peak KiB]
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cfcam_gpu
from cfcam_gpu._utils import json_lines
from tests.helpers.command import Outcome

ROOT = Path(cfcam_gpu.__file__).parents[1]


@dataclass(frozen=True)
class Ended(Outcome):
    """How a process ended. A negative `status` is the signal that ended it; `peak`: its largest memory in KiB."""

    peak: int


class Process:
    """A run of the command that was started."""

    def __init__(self, launcher: Launcher, pid: int, out: Path, err: Path) -> None:
        self.launcher, self.pid, self.out, self.err = launcher, pid, out, err

    def wait(self) -> Ended:
        status, peak = self.launcher.ask({"wait": self.pid})
        return Ended(status, self.out.read_text(), self.err.read_text(), peak)

    def kill(self, number: int) -> None:
        os.kill(self.pid, number)

    def children(self) -> list[int]:
        """Processes that any of its threads started; none when it has ended."""
        return child_processes(self.pid)


class Launcher:
    """The forking process, in a working folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=env,
        )

    def ask(self, request: dict[str, Any]) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(self, *argv: str, limit: int | None = None) -> Process:
        self.count += 1
        out, err = (self.folder / f"run{self.count}.{name}" for name in ("out", "err"))
        request = {"argv": list(argv), "out": str(out), "err": str(err), "limit": limit}
        return Process(self, self.ask(request), out, err)

    def run(self, *argv: str, limit: int | None = None) -> Ended:
        return self.start(*argv, limit=limit).wait()

    def close(self) -> None:
        self.process.communicate()


def wait_until(condition: Any, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def child_processes(pid: int | None = None) -> list[int]:
    """Processes that any thread of a process, or of this one, started; none when it has ended."""
    try:
        tasks = list(Path(f"/proc/{pid or os.getpid()}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _child(request: dict[str, Any]) -> None:
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), descriptor)
    if request["limit"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["limit"], request["limit"]))
    sys.argv = ["cfcam", *request["argv"]]
    from cfcam_gpu.cli import main

    try:
        main()
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 99
    sys.stdout.flush()
    sys.stderr.flush()
    json_lines.finish()  # the exit functions are not run
    os._exit(status)


def _serve() -> None:
    # What every child would import; nothing that starts threads, which a fork would not take along.
    import torch.fx.experimental.symbolic_shapes  # noqa: F401

    for module in (
        "cli.explain",
        "cli.evaluate",
        "cli.outcome",
        "cli.progress",
        "dataset.run",
        "models.load",
    ):
        importlib.import_module(f"cfcam_gpu.{module}")

    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status, usage = os.wait4(request["wait"], 0)
            answer: Any = [os.waitstatus_to_exitcode(status), usage.ru_maxrss]
        else:
            answer = os.fork()
            if answer == 0:
                _child(request)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve()
