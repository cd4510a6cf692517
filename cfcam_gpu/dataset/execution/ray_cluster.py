"""A Ray cluster: joining or starting one, and how many actors fit."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from types import ModuleType
from typing import Any

from cfcam_gpu.dataset.execution.observer import Interrupted
from cfcam_gpu.errors import BackendError

#: Seconds that a cluster has to answer.
PATIENCE = 5.0


@contextmanager
def joined(ray: ModuleType) -> Iterator[None]:
    """Ray, connected: as this process is already, at RAY_ADDRESS, or to a cluster of this machine that it starts.

    Raises:
        BackendError: none can be reached or started.
        Interrupted: SIGTERM meanwhile.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with _own_signals():
        try:
            _reach(address)
            ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        except (OSError, RuntimeError, ValueError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise BackendError(
                f"Ray cannot be reached or started at {address!r} ({reason}); check RAY_ADDRESS, or unset "
                "it to start Ray on this machine"
            ) from error
        except SystemExit:  # Ray's own answer to SIGTERM
            raise Interrupted(signal.SIGTERM) from None
    try:
        with redirect_stdout(_OwnOutput(sys.stdout)):
            yield
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Raises OSError where nothing listens: Ray itself would try for minutes."""
    found = re.fullmatch(r"(?:ray://)?\[?([^\[\]]+)\]?:(\d{1,5})", address)
    if found:
        socket.create_connection((found[1], int(found[2])), PATIENCE).close()


class _OwnOutput:
    """Standard output for this thread alone: what Ray prints in its own goes to standard error."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.thread = stream, threading.get_ident()

    def write(self, text: str) -> int:
        own = threading.get_ident() == self.thread
        return int((self.stream if own else sys.stderr).write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Whatever handlers Ray sets go again: a run has its own."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)


def layout(nodes: Sequence[Mapping[str, float]], device: str, actors: int | None) -> tuple[int, int, int]:
    """Number of actors, and CPUs and GPUs of each, for the resources of the machines.

    Raises:
        BackendError: more actors than there are GPUs, or without GPUs CPUs.
    """
    gpus = 0 if device == "cpu" else sum(int(node.get("GPU", 0)) for node in nodes)
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    on_gpus = bool(gpus) or device == "cuda"
    count = actors or gpus or max(1, sum(n // 2 for n in cpus))
    if on_gpus and not gpus:
        raise BackendError(
            "device 'cuda' was asked for and the cluster has no GPU; use --device cpu, or auto"
        )
    room, unit = (gpus, "GPU") if on_gpus else (sum(cpus), "CPU")
    if count > room:
        raise BackendError(
            f"{count} actors need a {unit} each and the cluster has {room}; give fewer --actors, or another "
            "--device"
        )
    if on_gpus:
        return count, 1, 1
    return count, max(n for n in range(1, max(cpus) + 1) if sum(node // n for node in cpus) >= count), 0
