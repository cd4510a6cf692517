"""Changes that are taken back whatever interrupts the code between them.

Python raises KeyboardInterrupt, and whatever else a signal handler raises, after any call: also in a
`finally` block, in `__exit__`, or between the two halves of taking something back. A call into C is
not divided. So the steps are calls into C, and so is the one call that takes all of them:

    undo = Undo()
    try:
        undo.add(vars(model).update, {"training": model.training})
        model.training = False
        result = ...
        return result
    finally:
        undo.run()

Between the last call of the `try` and the `finally` stands something else, here an assignment: so an
interrupt after that call still belongs to the `try`, whatever a version of Python makes of it.
"""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable, Iterable
from functools import partial
from itertools import repeat, starmap
from typing import Any

#: Takes every item of an iterator, and keeps none.
_drain: Callable[[Iterable[Any]], None] = collections.deque[Any](maxlen=0).extend

_call: Any = partial.__call__

#: What runs between a context manager's generator and the block that it is for.
_BETWEEN = tuple(
    getattr(contextlib._GeneratorContextManager, name).__code__ for name in ("__enter__", "__exit__")
)


def end_contexts(error: BaseException) -> None:
    """End the context managers that an interrupt cut off between their block and their own code.

    Such a generator would end when its frame goes, and that is when the last reference to the error goes:
    long after whoever handled the error has put things back. PyTorch's functions, under a function mode, take
    the mode off and put it on again in that way.
    """
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in _BETWEEN:
            trace.tb_frame.clear()
        trace = trace.tb_next


def each(function: Callable[..., Any], items: Iterable[Any], *args: Any) -> Callable[[], Any]:
    """A step that calls `function(item, *args)` for every item; it can be taken once.

    Example:
        >>> modes = [{}, {}]
        >>> each(dict.update, modes, {"training": True})()
        >>> modes
        [{'training': True}, {'training': True}]
    """
    return partial(_drain, map(function, items, *map(repeat, args)))


def until(read: Callable[[], Any], value: Any, function: Callable[[], Any]) -> Callable[[], Any]:
    """A step that calls `function` until `read` gives the value; it can be taken once.

    Example:
        >>> stack = [1, 2, 3]
        >>> until(stack.__len__, 1, stack.pop)()
        >>> stack
        [1]
    """
    return partial(_drain, zip(iter(read, value), starmap(function, repeat(())), strict=False))


def one_step(*steps: Callable[[], Any]) -> Callable[[], Any]:
    """A step that takes several, the first one first; it can be taken once.

    Example:
        >>> one_step(partial(print, 1), partial(print, 2))()
        1
        2
    """
    return each(_call, [partial(step) for step in steps])


class Undo:
    """Steps that take changes back, the last one first, in one call that no interrupt divides.

    A step is noted before the change it takes back, and must do no harm where the change was never made.
    A step written in Python can be interrupted; a function or method written in C cannot.

    Attributes:
        run: takes all steps; a second call does nothing.

    Example:
        >>> settings = {"mode": "train"}
        >>> undo = Undo()
        >>> try:
        ...     undo.add(settings.update, {"mode": "train"})
        ...     settings["mode"] = "eval"
        ... finally:
        ...     undo.run()
        >>> settings
        {'mode': 'train'}
    """

    def __init__(self) -> None:
        first: Any = object()
        self._steps: list[Any] = [first]
        self.run = partial(_drain, map(_call, iter(self._steps.pop, first)))

    def add(self, function: Callable[..., Any], *args: Any) -> None:
        """Note the step `function(*args)`."""
        self._steps.append(partial(function, *args))

    def add_last(self, function: Callable[[], Any]) -> None:
        """Note a step written in Python: it is taken after the others, so that an interrupt in it skips none.

        Example:
            >>> undo = Undo()
            >>> undo.add_last(lambda: print("last"))
            >>> undo.add(print, "first")
            >>> undo.run()
            first
            last
        """
        self._steps.insert(1, partial(function))

    def change(self, do: Callable[[], Any], back: Callable[[], Any]) -> None:
        """Call `do` and note the step `back`, so that the step is there only where the change was made.

        Example:
            >>> import threading
            >>> lock, undo = threading.Lock(), Undo()
            >>> undo.change(lock.acquire, lock.release)
            >>> lock.locked()
            True
            >>> undo.run()
            >>> lock.locked()
            False
        """
        _drain(map(_call, (partial(do), partial(self._steps.append, partial(back)))))
