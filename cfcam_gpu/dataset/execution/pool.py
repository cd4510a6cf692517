"""Worker processes that may die or hang without harm: each has one task, its own pipe, and a time limit."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from concurrent.futures import Future
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from cfcam_gpu.dataset.execution.worker import READY, Failure, perform
from cfcam_gpu.errors import BackendError

#: Seconds a process may take to start, and starts in a row that may fail.
START_LIMIT, START_ATTEMPTS = 120.0, 3

#: A fresh interpreter, so that neither the caller's main module nor PyTorch is imported again.
_START = (
    "import json, sys; descriptor, parent, path = json.loads(sys.argv[1]); sys.path[:] = path; "
    "from cfcam_gpu.dataset.execution.worker import main; main(descriptor, parent)"
)


class Pool(Protocol):
    """Runs tasks of `worker.TASKS`; a future's result is the task's or a `Failure`, never an exception of it."""

    def submit(self, task: str, *arguments: Any) -> Future[Any]: ...
    def close(self) -> None: ...


def make_pool(workers: int, timeout: float) -> Pool:
    """`workers` processes, each task limited to `timeout` seconds; 0: in this process, without a limit."""
    return Processes(workers, timeout) if workers else Inline()


class Inline:
    """Does each task at once, in the caller's process."""

    def submit(self, task: str, *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(perform(task, *arguments))
        return future

    def close(self) -> None:
        return None


class _Worker:
    """A process, our end of its pipe, and what it is doing."""

    def __init__(self, timeout: float) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            # Without these a worker that is stopped halfway through a message would hold up all others.
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                ours.setsockopt(socket.SOL_SOCKET, option, _timeval(timeout))
            argument = json.dumps([theirs.fileno(), os.getpid(), [os.path.abspath(p) for p in sys.path]])
            self.process = subprocess.Popen(
                [sys.executable, "-c", _START, argument],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
            self.connection = Connection(ours.detach())
        self.started = False
        self.task: Future[Any] | None = None
        self.deadline = time.monotonic() + START_LIMIT

    @property
    def idle(self) -> bool:
        return self.started and self.task is None

    def give(self, future: Future[Any], task: tuple[Any, ...], timeout: float) -> None:
        self.task, self.deadline = future, time.monotonic() + timeout
        self.connection.send(task)

    def kill(self) -> int:
        """Ends the process whatever it does; its exit status, negative for a signal."""
        status = self.process.poll()
        if status is None:
            self.process.kill()
            status = self.process.wait()
        self.connection.close()
        return status


class Processes:
    """Up to `workers` processes, started when there is something to do.

    One thread of this process serves them all, so that they go on while the caller computes. A
    process that dies or passes the time limit is replaced; only the task it had fails.
    """

    def __init__(self, workers: int, timeout: float) -> None:
        self.limit = workers
        self.timeout = timeout
        self._queue: deque[tuple[Future[Any], tuple[Any, ...]]] = deque()
        self._workers: list[_Worker] = []
        self._failed_starts = 0
        self._closing = False
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_writer, False)
        self._thread = threading.Thread(target=self._serve, name="cfcam-pool", daemon=True)
        self._thread.start()

    def submit(self, task: str, *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._queue.append((future, (task, *arguments)))
        self._wake()
        return future

    def close(self) -> None:
        """Kills the processes; what they had not finished never ends."""
        if not self._closing:
            self._closing = True
            self._wake()
            self._thread.join()
            os.close(self._wake_reader)
            os.close(self._wake_writer)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # enough wake-up calls lie in the pipe
            os.write(self._wake_writer, b".")

    def _serve(self) -> None:
        # Children inherit the mask: Ctrl-C and a job's end reach the whole group, but only we decide.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
        try:
            while not self._closing:
                self._assign()
                self._receive()
                self._expire()
        except Exception as error:
            self._fail_all(error)
        finally:
            for worker in self._workers:
                worker.kill()

    def _assign(self) -> None:
        for worker in self._workers:
            if worker.idle and self._queue:
                future, task = self._queue.popleft()
                try:
                    worker.give(future, task, self.timeout)
                except OSError:
                    self._replace(worker, *_died(worker))
                    return self._assign()
        starting = sum(not worker.started for worker in self._workers)
        for _ in range(min(len(self._queue) - starting, self.limit - len(self._workers))):
            self._workers.append(_Worker(self.timeout))
        return None

    def _receive(self) -> None:
        by_connection = {worker.connection: worker for worker in self._workers}
        deadlines = [worker.deadline for worker in self._workers if not worker.idle]
        patience = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
        for ready in wait([self._wake_reader, *by_connection], patience):
            if ready == self._wake_reader:
                os.read(self._wake_reader, 65536)
            elif isinstance(ready, Connection):
                self._take(by_connection[ready])

    def _take(self, worker: _Worker) -> None:
        try:
            result = worker.connection.recv()
        except BlockingIOError:  # the rest of the message does not come
            self._replace(worker, "Timeout", self._late())
            return
        except Exception:  # the end of the pipe, or half a message
            self._replace(worker, *_died(worker))
            return
        if not worker.started:
            worker.started = result == READY
            self._failed_starts = 0
            return
        future, worker.task = worker.task, None
        if future is not None:
            future.set_result(result)

    def _expire(self) -> None:
        now = time.monotonic()
        for worker in [w for w in self._workers if not w.idle and w.deadline <= now]:
            self._replace(worker, "Timeout", self._late())

    def _late(self) -> str:
        return f"not done after {self.timeout:g} s; its process was ended"

    def _replace(self, worker: _Worker, error_type: str, message: str) -> None:
        """Another one is started when there is something to do."""
        worker.kill()
        self._workers.remove(worker)
        if worker.task is not None:
            worker.task.set_result(Failure(None, error_type, message))
        elif not worker.started:
            self._failed_starts += 1
            if self._failed_starts >= START_ATTEMPTS:
                raise BackendError(
                    f"worker processes do not start ({message}); --workers 0 does without them"
                )

    def _fail_all(self, error: Exception) -> None:
        """Whoever waits, and whoever comes later, is told."""
        self._workers, workers = [], self._workers
        tasks = [worker.task for worker in workers if worker.task is not None]
        for worker in workers:
            worker.kill()
        while not self._closing:
            while self._queue:
                tasks.append(self._queue.popleft()[0])
            for future in tasks:
                future.set_exception(error)
            tasks = []
            time.sleep(0.05)


def _timeval(seconds: float) -> bytes:
    """At least a microsecond, since 0 means without end."""
    whole = min(int(seconds), 10**9)
    return struct.pack("@ll", whole, max(int(seconds % 1 * 1e6), int(whole == 0)))


def _died(worker: _Worker) -> tuple[str, str]:
    worker.process.poll()
    try:
        status = worker.process.wait(1)  # the end of its pipe comes a moment before its own
    except subprocess.TimeoutExpired:
        status = worker.kill()
    if status >= 0:
        return "WorkerDied", f"the worker process ended with status {status}"
    return "WorkerDied", f"the worker process was ended by {signal.Signals(-status).name} (out of memory?)"
