"""The results of tasks that were submitted together: one object to wait for, not one for each task."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any, Protocol


class Target(Protocol):
    """What a task's result goes to: a future, or a place among `Results`."""

    def set_result(self, value: Any) -> None: ...
    def set_exception(self, error: BaseException) -> None: ...


class Results:
    """Results that come in any order, from any thread.

    Example:
        >>> results = Results(2)
        >>> first, second = results.places()
        >>> second.set_result("b")
        >>> results.wait(0.0)
        False
        >>> first.set_result("a")
        >>> results.wait(0.0), results.values()
        (True, ['a', 'b'])
    """

    def __init__(self, count: int) -> None:
        self._values: list[Any] = [None] * count
        self._set: list[int] = []  # appending is atomic, counting is not
        self._error: BaseException | None = None
        self._complete = threading.Event()
        if not count:
            self._complete.set()

    @classmethod
    def of(cls, futures: Iterable[Future[Any]]) -> Results:
        """The results of futures; their tasks raise no exceptions."""
        listed = list(futures)
        results = cls(len(listed))
        for future, place in zip(listed, results.places(), strict=True):
            future.add_done_callback(place.set_from)
        return results

    def places(self) -> list[Place]:
        """Where each result is set, once."""
        return [Place(self, position) for position in range(len(self._values))]

    def wait(self, seconds: float) -> bool:
        """Waits for all results; False if they are not there in time."""
        return self._complete.wait(seconds)

    def values(self) -> list[Any]:
        """All results, in the order of the tasks, once `wait` has been True.

        Raises:
            BackendError: the pool gave up.
        """
        if self._error is not None:
            raise self._error
        return self._values

    def _set_value(self, position: int, value: Any) -> None:
        self._values[position] = value
        self._set.append(position)
        if len(self._set) == len(self._values):
            self._complete.set()

    def _set_error(self, error: BaseException) -> None:
        self._error = error
        self._complete.set()


class Place:
    """Where one of the `Results` is set."""

    __slots__ = ("_position", "_results")

    def __init__(self, results: Results, position: int) -> None:
        self._results, self._position = results, position

    def set_result(self, value: Any) -> None:
        self._results._set_value(self._position, value)

    def set_exception(self, error: BaseException) -> None:
        self._results._set_error(error)

    def set_from(self, future: Future[Any]) -> None:
        self.set_result(future.result())
