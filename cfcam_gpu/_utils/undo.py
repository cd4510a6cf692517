"""Changes that are taken back whatever interrupts the code between them.

Python raises KeyboardInterrupt, and whatever else a signal handler raises, after any call: also in a
`finally` block, in `__exit__`, or between the two halves of taking something back. A call into C is
not divided. So the steps are calls into C, and so is the one call that takes all of them:

    undo = Undo()
    try:
        undo.add(setattr, model, "training", model.training)
        model.training = False
        ...
    finally:
        undo.run()
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable
from functools import partial
from itertools import repeat, starmap
from typing import Any

#: Takes every item of an iterator, and keeps none.
_drain: Callable[[Iterable[Any]], None] = collections.deque[Any](maxlen=0).extend

_call: Any = partial.__call__


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

    def add_each(self, function: Callable[..., Any], items: Iterable[Any], *args: Any) -> None:
        """Note the step `function(item, *args)` of every item.

        Example:
            >>> modes = [{}, {}]
            >>> undo = Undo()
            >>> undo.add_each(dict.update, modes, {"training": True})
            >>> undo.run()
            >>> modes
            [{'training': True}, {'training': True}]
        """
        self._steps.append(partial(_drain, map(function, items, *map(repeat, args))))

    def add_until(self, read: Callable[[], Any], function: Callable[[], Any]) -> None:
        """Note the step that calls `function` for as long as `read` does not give what it gives now.

        Example:
            >>> stack = [1]
            >>> undo = Undo()
            >>> undo.add_until(stack.__len__, stack.pop)
            >>> stack += [2, 3]
            >>> undo.run()
            >>> stack
            [1]
        """
        again = zip(iter(read, read()), starmap(function, repeat(())), strict=False)
        self._steps.append(partial(_drain, again))

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
