"""A Ray cluster: joining or starting one, and how many actors of which size it takes."""

from __future__ import annotations

import atexit
import importlib
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

from cfcam_gpu._utils.messages import first_line
from cfcam_gpu._utils.optional import require
from cfcam_gpu._utils.signals import restored_handlers
from cfcam_gpu.dataset.execution.observer import Interrupted
from cfcam_gpu.errors import BackendError

#: Seconds that a cluster has to accept a connection.
_CONNECT_TIMEOUT = 5.0

#: The variable with the seconds after which Ray ends every process whose head node is gone, 60 unless set.
_RAYS_PATIENCE = "RAY_gcs_rpc_server_reconnect_timeout_s"

#: Asks a cluster for something, in a process of its own: how Ray authenticates is chosen once for a process.
_ASK = (
    "import sys; from ray._raylet import GcsClient; "
    "GcsClient(address=sys.argv[1]).internal_kv_keys(b'', None, timeout=5)"
)

#: Seconds that this may take.
_ASK_TIMEOUT = 30.0

#: Seconds to disconnect from a cluster whose head node is gone.
_LEAVE_TIMEOUT = 2.0


def import_ray() -> ModuleType:
    """Ray. The services of a cluster that it starts on this machine ask for a token, also in versions that do not
    by themselves.

    Raises:
        MissingPackageError: it is not installed.
    """
    if "ray" not in sys.modules and not os.environ.get("RAY_ADDRESS"):
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray reads it when it is imported
    return require("ray", "ray", "Ray")


@contextmanager
def joined_cluster(ray: ModuleType) -> Iterator[None]:
    """Connects this process to a Ray cluster, and disconnects it on leaving.

    A connection that this process has already is used and kept. Otherwise the cluster at RAY_ADDRESS is
    joined; without that variable a cluster is started on this machine.

    Raises:
        BackendError: the cluster cannot be reached or started.
        HeadGone: what the block raised; Ray disconnects in the background.
        Interrupted: SIGTERM arrived while connecting.
    """
    if ray.is_initialized():
        yield
        return
    _connect(ray, os.environ.get("RAY_ADDRESS") or "local")
    leave = ray.shutdown
    try:
        with redirect_stdout(_OwnOutput(sys.stdout)):
            yield
    except HeadGone:
        leave = partial(_leave_dead, ray)
        raise
    finally:
        leave()


def _leave_dead(ray: ModuleType) -> None:
    """Disconnects from a cluster without a head, for which Ray would wait here and again at the end of Python."""
    atexit.unregister(ray.shutdown)
    thread = threading.Thread(target=ray.shutdown, daemon=True)
    thread.start()
    thread.join(_LEAVE_TIMEOUT)


def _connect(ray: ModuleType, address: str) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with restored_handlers():  # Ray sets handlers of its own; a run needs those it had
        try:
            _check_reachable(address)
            ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        except (OSError, RuntimeError, ValueError) as error:
            raise BackendError(
                f"Ray cannot be reached or started at {address!r} ({first_line(error)}); check RAY_ADDRESS, "
                f"or unset it to start Ray on this machine{_about_token(error)}"
            ) from error
        except SystemExit:  # Ray's own handler of SIGTERM raises it
            raise Interrupted(signal.SIGTERM) from None


def _about_token(error: Exception) -> str:
    """The advice where something answers at the address and Ray was not told to send it a token."""
    if isinstance(error, OSError) or os.environ.get("RAY_AUTH_MODE"):
        return ""
    return "; where `ray start` said that token authentication is enabled, set RAY_AUTH_MODE=token here too"


def about_needless_token(address: str) -> str:
    """The advice where this process expects a token and the cluster has none; else empty.

    Ray connects then, but the workers send no token to this process, which refuses them: no actor starts.

    Args:
        address: HOST:PORT of the head node.
    """
    if not _expects_token() or not _answers_without_token(address):
        return ""
    return (
        f"; the cluster at {address} has no token and this process expects one: set RAY_AUTH_MODE=disabled here, or "
        "start the cluster with RAY_AUTH_MODE=token"
    )


def _expects_token() -> bool:
    try:
        raylet: Any = importlib.import_module("ray._raylet")
        return bool(raylet.get_authentication_mode() == raylet.AuthenticationMode.TOKEN)
    except (ImportError, AttributeError):  # no public part of Ray says it
        return os.environ.get("RAY_AUTH_MODE") == "token"


def _answers_without_token(address: str) -> bool:
    try:
        asked = subprocess.run(
            [sys.executable, "-c", _ASK, address],
            env={**os.environ, "RAY_AUTH_MODE": "disabled"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_ASK_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return asked.returncode == 0


def _check_reachable(address: str) -> None:
    """Raises OSError if nothing listens at HOST:PORT; Ray itself would retry for minutes."""
    match = re.fullmatch(r"(?:ray://)?\[?([^\[\]]+)\]?:(\d{1,5})", address)
    if match:
        socket.create_connection((match[1], int(match[2])), _CONNECT_TIMEOUT).close()


class ActorsDoNotStart(BackendError):
    """Several actors in a row died before they were ready."""


class HeadGone(BackendError):
    """The head node of the cluster does not answer any more."""


class HeadWatch:
    """Notices that the head node of the cluster is gone before Ray ends this process for it, without a word of ours.

    Half of Ray's patience (`_RAYS_PATIENCE`) is left for a head node that is restarted.

    Args:
        address: HOST:PORT of the head node. One that cannot be reached from the start, as behind Ray's client, is
            not watched.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.patience = float(os.environ.get(_RAYS_PATIENCE, "60")) / 2
        self.next_try = time.monotonic() if self._answers() else math.inf
        self.last_answer = time.monotonic()

    def check(self) -> None:
        """Raises HeadGone if the head node has not answered for long; asks it a few times a minute."""
        if time.monotonic() < self.next_try:
            return
        if self._answers():
            self.last_answer = time.monotonic()
        elif time.monotonic() - self.last_answer > self.patience:
            raise HeadGone(
                f"the head node of the Ray cluster at {self.address} has not answered for {self.patience:.0f} s; "
                "what is finished is kept: the same command goes on in a new cluster, or on this machine without "
                "--distributed"
            )
        self.next_try = time.monotonic() + self.patience / 10

    def _answers(self) -> bool:
        try:
            _check_reachable(self.address)
        except OSError:
            return False
        return True


class _OwnOutput:
    """Standard output for the thread that made it; what other threads (Ray's) print goes to standard error."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.thread = stream, threading.get_ident()

    def write(self, text: str) -> int:
        own = threading.get_ident() == self.thread
        return int((self.stream if own else sys.stderr).write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Placement(NamedTuple):
    """The number of actors, and the CPUs and GPUs that each gets."""

    actors: int
    cpus: int
    gpus: int


def placement(nodes: Sequence[Mapping[str, float]], device: str, actors: int | None) -> Placement:
    """The actors that a cluster takes.

    Without a number: one actor per GPU; on a cluster without GPUs one per two CPUs.

    Args:
        nodes: the resources of each machine, as Ray names them: `CPU`, `GPU`.
        device: auto, cpu or cuda.
        actors: their number; None: chosen as above.

    Raises:
        BackendError: device cuda without a GPU, or more actors than GPUs (without GPUs: than CPUs).

    Example:
        >>> placement([{"CPU": 64, "GPU": 8}, {"CPU": 4}], "auto", None)
        Placement(actors=8, cpus=1, gpus=1)
        >>> placement([{"CPU": 16}, {"CPU": 7}], "cpu", 3)
        Placement(actors=3, cpus=7, gpus=0)
    """
    gpus = 0 if device == "cpu" else sum(int(node.get("GPU", 0)) for node in nodes)
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    if device == "cuda" and not gpus:
        raise BackendError(
            "device 'cuda' was asked for and the cluster has no GPU; use --device cpu, or auto"
        )
    count = actors or gpus or max(1, sum(n // 2 for n in cpus))
    available, unit = (gpus, "GPU") if gpus else (sum(cpus), "CPU")
    if count > available:
        raise BackendError(
            f"{count} actors need a {unit} each and the cluster has {available}; give fewer --actors, "
            "or another --device"
        )
    return Placement(count, 1, 1) if gpus else Placement(count, _cpus_each(cpus, count), 0)


def _cpus_each(cpus: Sequence[int], count: int) -> int:
    """The most CPUs that each of `count` actors can have on machines with so many CPUs."""
    return max(n for n in range(1, max(cpus) + 1) if sum(node // n for node in cpus) >= count)
