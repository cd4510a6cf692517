"""Pools without worker processes: this process performs the tasks (see `pool.Pool`)."""

from __future__ import annotations

import contextlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable
from concurrent.futures import Future, InvalidStateError
from queue import Empty, SimpleQueue
from typing import Any

from cfcam_gpu.dataset.execution.results import Results
from cfcam_gpu.dataset.execution.shared_memory import Block
from cfcam_gpu.dataset.execution.worker import Failure, perform

#: Seconds that the end of a run waits for a task of a thread.
_CLOSE_LIMIT = 0.2


class _PoolOfThisProcess(ABC):
    """What the pools without worker processes have in common: they lend no memory."""

    @abstractmethod
    def submit(self, task: str, *arguments: Any) -> Future[Any]:
        """The future of one task."""

    def start(self, _tasks: int) -> None:
        return None

    def submit_all(self, task: str, arguments: Iterable[tuple[Any, ...]]) -> Results:
        return Results.of(self.submit(task, *one) for one in arguments)

    def lease(self, _shape: tuple[int, ...]) -> None:
        return None

    def release(self, block: Block) -> None:
        raise AssertionError(f"no block was lent, and {block} came back")


class InlinePool(_PoolOfThisProcess):
    """Performs each task at once, in the caller's process."""

    def submit(self, task: str, *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(perform(task, *arguments))
        return future

    def close(self) -> None:
        return None


class ThreadPool(_PoolOfThisProcess):
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
