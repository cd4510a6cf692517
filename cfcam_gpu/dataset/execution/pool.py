"""Worker processes. Each has its own pipe and a few tasks at a time; one that dies or hangs costs one task."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from cfcam_gpu._utils.messages import one_line
from cfcam_gpu.dataset.execution.in_process import InlinePool, ThreadPool
from cfcam_gpu.dataset.execution.results import Results, Target
from cfcam_gpu.dataset.execution.shared_memory import Block, Progress, SharedMemory
from cfcam_gpu.dataset.execution.worker import READY, Failure, Task
from cfcam_gpu.dataset.options import FEW_SAMPLES, default_workers
from cfcam_gpu.errors import BackendError

log = logging.getLogger("cfcam_gpu")

#: Seconds that a process may take to start.
_START_LIMIT = 120.0

#: Most tasks of a worker at a time.
_TASKS_AT_ONCE = 16

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

    def submit_all(self, task: str, arguments: Iterable[tuple[Any, ...]]) -> Results:
        """As `submit`, for several tasks at once, which costs less."""

    def start(self, tasks: int) -> None:
        """Gets ready for so many tasks, which come soon."""

    def lease(self, shape: tuple[int, ...]) -> Block | None:
        """Memory (B, H, W, channels) into which the tasks `view` write; None: their results hold the pixels."""

    def release(self, block: Block) -> None:
        """Gives a block back; the tasks that write into it must be done."""

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


#: Where the result of a task goes, and the task.
_Pending = tuple[Target, Task]


class _Worker:
    """A process, our end of its pipe, and the tasks that it was sent and whose results it did not send yet.

    Args:
        timeout: seconds that a task may take.
        memory: the shared memory; place: of the worker's `Progress` in it, which no other worker has.
    """

    def __init__(self, timeout: float, memory: SharedMemory, place: int) -> None:
        self.timeout, self.place = timeout, place
        self.progress = Progress(memory.descriptor, place)
        self.progress.reset()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            # A worker that stops in the middle of a message would block the thread, and so all other workers.
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                ours.setsockopt(socket.SOL_SOCKET, option, _timeval(timeout))
            argument = json.dumps([theirs.fileno(), os.getpid(), _import_path()])
            self.process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, argument],
                pass_fds=[theirs.fileno(), memory.descriptor],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
            self.connection = Connection(ours.detach())
        with contextlib.suppress(OSError):  # it has ended already, which the pool will notice
            self.connection.send((memory.descriptor, place))
        self.started = False
        self.pending: deque[_Pending] = deque()
        self.done = 0
        self.sent_at = time.monotonic()

    @property
    def idle(self) -> bool:
        return self.started and not self.pending

    @property
    def deadline(self) -> float:
        """When the process must have started, or have done its current task."""
        if not self.started:
            return self.sent_at + _START_LIMIT
        return max(self.sent_at, self.progress.begun_at) + self.timeout

    def assign(self, tasks: list[_Pending]) -> None:
        """Sends tasks to an idle worker. Raises OSError if it is gone."""
        self.pending.extend(tasks)
        self.sent_at = time.monotonic()
        self.connection.send([task for _, task in tasks])

    def complete(self, results: list[Any]) -> None:
        """Passes on the results of its first tasks."""
        self.done += len(results)
        for result in results:
            target, _ = self.pending.popleft()
            target.set_result(result)

    def divided(self) -> tuple[_Pending | None, list[_Pending]]:
        """The task at which the process is, and the others, also those whose results it did not send."""
        others = list(self.pending)
        current = max(0, min(self.progress.begun - self.done, len(others)) - 1)
        return (others.pop(current) if others else None), others

    def kill(self) -> int:
        """Ends the process at once. Returns its exit status; a negative one is the signal that ended it."""
        status = self.process.poll()
        if status is None:
            self.process.kill()
            status = self.process.wait()
        self.connection.close()
        return status


class ProcessPool:
    """Up to `workers` processes; each is started when a task waits and none is free, or by `start`.

    One thread of this process serves them all, so that they get tasks also while the caller computes. A
    process that dies or exceeds the time limit is replaced; only its current task fails, and others do the
    rest of its tasks. The pixels of views are in memory that all processes share.

    Raises:
        BackendError: there is no shared memory.
    """

    def __init__(self, workers: int, timeout: float) -> None:
        self.limit = workers
        self.timeout = timeout
        self._queue: deque[_Pending] = deque()
        self._workers: list[_Worker] = []
        self._early = 0
        self._warned = False
        try:
            self._memory = SharedMemory(workers)
        except OSError as error:
            raise BackendError(
                f"worker processes need shared memory, and there is none ({one_line(error)}); --workers 0 "
                "decodes in this process instead"
            ) from error
        self._failed_starts = 0
        self._closing = False
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_writer, False)
        self._thread = threading.Thread(target=self._serve, name="cfcam-pool", daemon=True)
        self._thread.start()

    def start(self, tasks: int) -> None:
        """Starts the processes that so many tasks will need, before the tasks are there."""
        self._early = tasks
        self._wake()

    def submit(self, task: str, *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._queue.append((future, (task, *arguments)))
        self._wake()
        return future

    def submit_all(self, task: str, arguments: Iterable[tuple[Any, ...]]) -> Results:
        tasks = [(task, *one) for one in arguments]
        results = Results(len(tasks))
        self._queue.extend(zip(results.places(), tasks, strict=True))
        self._wake()
        return results

    def lease(self, shape: tuple[int, ...]) -> Block | None:
        try:
            return self._memory.lease(shape)
        except OSError as error:
            if not self._warned:
                self._warned = True
                log.warning(
                    "no shared memory for %d images (%s); they go through pipes, which is slower",
                    shape[0],
                    one_line(error),
                )
            return None

    def release(self, block: Block) -> None:
        self._memory.release(block)

    def close(self) -> None:
        """Ends the processes. Futures whose tasks are not done never complete."""
        if not self._closing:
            self._closing = True
            self._wake()
            self._thread.join()
            os.close(self._wake_reader)
            os.close(self._wake_writer)
            self._memory.close()

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
                try:
                    worker.assign([self._queue.popleft() for _ in range(self._tasks_at_once())])
                except OSError:
                    self._replace(worker, *_died(worker))
                    return self._assign()
        starting = sum(not worker.started for worker in self._workers)
        wanted, self._early = max(len(self._queue) - starting, self._early), 0
        for _ in range(min(wanted, self.limit - len(self._workers))):
            places = {worker.place for worker in self._workers}
            place = next(place for place in range(self.limit) if place not in places)
            self._workers.append(_Worker(self.timeout, self._memory, place))
        return None

    def _tasks_at_once(self) -> int:
        """How many tasks the next worker gets: few of a short queue, so that all workers get some."""
        return max(1, min(_TASKS_AT_ONCE, len(self._queue) // (2 * self.limit)))

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
        worker.complete(result)

    def _expire(self) -> None:
        now = time.monotonic()
        for worker in [w for w in self._workers if not w.idle and w.deadline <= now]:
            self._replace(worker, "Timeout", self._timeout_message())

    def _timeout_message(self) -> str:
        return f"not done after {self.timeout:g} s; its process was ended"

    def _replace(self, worker: _Worker, error_type: str, message: str) -> None:
        """Ends a worker, fails its current task and puts the others back; `_assign` starts another worker."""
        worker.kill()
        self._workers.remove(worker)
        current, others = worker.divided()
        self._queue.extendleft(reversed(others))
        if current is not None:
            current[0].set_result(Failure(None, error_type, message))
        elif not worker.started:
            self._failed_starts += 1
            if self._failed_starts >= _START_ATTEMPTS:
                raise BackendError(
                    f"worker processes do not start ({message}); --workers 0 decodes in this process instead"
                )

    def _fail_all(self, error: Exception) -> None:
        """Raises the error for every task that waits, and for every later one, until the pool is closed."""
        self._workers, workers = [], self._workers
        targets = [target for worker in workers for target, _ in worker.pending]
        for worker in workers:
            worker.kill()
        while not self._closing:
            while self._queue:
                targets.append(self._queue.popleft()[0])
            for target in targets:
                target.set_exception(error)
            targets = []
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
