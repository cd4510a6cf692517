"""Worker processes. Each has its own pipe, one task at a time and a time limit; one that dies costs one task."""

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
from concurrent.futures import Future, InvalidStateError
from multiprocessing.connection import Connection, wait
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from cfcam_gpu.dataset.execution.worker import READY, Failure, perform
from cfcam_gpu.dataset.options import FEW_SAMPLES, default_workers
from cfcam_gpu.errors import BackendError

#: Seconds that a process may take to start.
_START_LIMIT = 120.0

#: Seconds that the end of a run waits for a task of a thread.
_CLOSE_LIMIT = 1.0

#: After this many failed starts in a row the pool gives up.
_START_ATTEMPTS = 3

#: Program of a worker process. A new interpreter imports neither the caller's main module nor PyTorch, and nothing
#: from the current folder, which `-c` would search first: a file json.py may lie there.
_PROGRAM = (
    "import sys; sys.path[:] = [folder for folder in sys.path if folder]; import json; "
    "descriptor, parent, path = json.loads(sys.argv[1]); sys.path[:] = path; "
    "from cfcam_gpu.dataset.execution.worker import serve; serve(descriptor, parent)"
)


class Pool(Protocol):
    """Performs tasks (see `worker.perform`).

    The result of a future is the task's result, or a `Failure`; an exception of the task is never raised.
    """

    def submit(self, task: str, *arguments: Any) -> Future[Any]: ...
    def close(self) -> None: ...


def make_pool(workers: int | None, timeout: float, samples: int | None = None) -> Pool:
    """A pool of worker processes.

    Args:
        workers: their number; 0: this process performs the tasks, without a time limit; None: chosen by the
            number of samples.
        timeout: seconds that a task may take.
        samples: number of samples; None: many.

    Example:
        >>> pool = make_pool(0, timeout=60.0)
        >>> pool.submit("view", "missing.png", None).result().message
        'the file does not exist'
    """
    if workers is None and samples is not None and samples <= FEW_SAMPLES:
        return ThreadPool(timeout)
    if workers is None:
        workers = default_workers()
    return ProcessPool(workers, timeout) if workers else InlinePool()


class InlinePool:
    """Performs each task at once, in the caller's process."""

    def submit(self, task: str, *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(perform(task, *arguments))
        return future

    def close(self) -> None:
        return None


class ThreadPool:
    """Performs one task after the other in a thread of this process, so that the caller computes meanwhile.

    A task that exceeds the time limit fails, and another thread does the later tasks. The thread of that task
    cannot be ended; it does not keep the process from ending.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._tasks: SimpleQueue[tuple[Future[Any], tuple[Any, ...]] | None] = SimpleQueue()
        self._start_thread()

    def submit(self, task: str, *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._tasks.put((future, (task, *arguments)))
        return future

    def close(self) -> None:
        """Ends the thread after its current task. Futures whose tasks have not begun never complete."""
        with contextlib.suppress(Empty):
            while True:
                self._tasks.get_nowait()
        self._tasks.put(None)
        self._thread.join(_CLOSE_LIMIT)

    def _start_thread(self) -> None:
        self._thread = threading.Thread(target=self._serve, name="cfcam-pool", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while (item := self._tasks.get()) is not None:
            future, task = item
            timer = threading.Timer(min(self.timeout, threading.TIMEOUT_MAX), self._expire, [future])
            timer.daemon = True
            timer.start()
            result = perform(*task)
            timer.cancel()
            try:
                future.set_result(result)
            except InvalidStateError:  # it took too long, and another thread serves the tasks
                return

    def _expire(self, future: Future[Any]) -> None:
        with contextlib.suppress(InvalidStateError):  # it was done at the last moment
            future.set_result(Failure(None, "Timeout", f"not done after {self.timeout:g} s"))
            self._start_thread()


class _Worker:
    """A process, our end of its pipe, its task (None: it has none) and the time at which it must be done."""

    def __init__(self, timeout: float) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            # A worker that stops in the middle of a message would block the thread, and so all other workers.
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                ours.setsockopt(socket.SOL_SOCKET, option, _timeval(timeout))
            argument = json.dumps([theirs.fileno(), os.getpid(), _import_path()])
            self.process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, argument],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
            self.connection = Connection(ours.detach())
        self.started = False
        self.task: Future[Any] | None = None
        self.deadline = time.monotonic() + _START_LIMIT

    @property
    def idle(self) -> bool:
        return self.started and self.task is None

    def assign(self, future: Future[Any], task: tuple[Any, ...], timeout: float) -> None:
        """Sends a task; its result completes `future`. Raises OSError if the process is gone."""
        self.task, self.deadline = future, time.monotonic() + timeout
        self.connection.send(task)

    def kill(self) -> int:
        """Ends the process at once. Returns its exit status; a negative one is the signal that ended it."""
        status = self.process.poll()
        if status is None:
            self.process.kill()
            status = self.process.wait()
        self.connection.close()
        return status


class ProcessPool:
    """Up to `workers` processes; each is started when a task waits and none is free.

    One thread of this process serves them all, so that they get tasks also while the caller computes. A
    process that dies or exceeds the time limit is replaced; only its current task fails.
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
        """Ends the processes. Futures whose tasks are not done never complete."""
        if not self._closing:
            self._closing = True
            self._wake()
            self._thread.join()
            os.close(self._wake_reader)
            os.close(self._wake_writer)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # the pipe is full: the thread wakes up anyway
            os.write(self._wake_writer, b".")

    def _serve(self) -> None:
        # Workers inherit the mask: Ctrl-C and the end of a job signal the whole group, but this process ends them.
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
                    worker.assign(future, task, self.timeout)
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
                self._receive_from(by_connection[ready])

    def _receive_from(self, worker: _Worker) -> None:
        try:
            result = worker.connection.recv()
        except BlockingIOError:  # the rest of the message did not arrive in time
            self._replace(worker, "Timeout", self._timeout_message())
            return
        except Exception:  # the pipe ended, perhaps in the middle of a message
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
            self._replace(worker, "Timeout", self._timeout_message())

    def _timeout_message(self) -> str:
        return f"not done after {self.timeout:g} s; its process was ended"

    def _replace(self, worker: _Worker, error_type: str, message: str) -> None:
        """Ends a worker and fails its task; `_assign` starts another one when a task waits."""
        worker.kill()
        self._workers.remove(worker)
        if worker.task is not None:
            worker.task.set_result(Failure(None, error_type, message))
        elif not worker.started:
            self._failed_starts += 1
            if self._failed_starts >= _START_ATTEMPTS:
                raise BackendError(
                    f"worker processes do not start ({message}); --workers 0 decodes in this process instead"
                )

    def _fail_all(self, error: Exception) -> None:
        """Raises the error for every task that waits, and for every later one, until the pool is closed."""
        self._workers, workers = [], self._workers
        futures = [worker.task for worker in workers if worker.task is not None]
        for worker in workers:
            worker.kill()
        while not self._closing:
            while self._queue:
                futures.append(self._queue.popleft()[0])
            for future in futures:
                future.set_exception(error)
            futures = []
            time.sleep(0.05)


def _import_path() -> list[str]:
    """This process's import path for a worker; the current folder, which "" stands for, comes last."""
    return [os.path.abspath(p) for p in sorted(sys.path, key=lambda folder: folder == "")]


def _timeval(seconds: float) -> bytes:
    """The C struct timeval of a time limit; at least a microsecond, since 0 means no limit."""
    whole = min(int(seconds), 10**9)
    return struct.pack("@ll", whole, max(int(seconds % 1 * 1e6), int(whole == 0)))


def _died(worker: _Worker) -> tuple[str, str]:
    """Error type and message for a worker whose process has ended."""
    worker.process.poll()
    try:
        status = worker.process.wait(1)  # a process closes its pipe a moment before it ends
    except subprocess.TimeoutExpired:
        status = worker.kill()
    if status >= 0:
        return "WorkerDied", f"the worker process ended with status {status}"
    return "WorkerDied", f"the worker process was ended by {signal.Signals(-status).name} (out of memory?)"
