"""How a long computation is ended from outside."""

from __future__ import annotations

from collections.abc import Callable

#: Called often by whatever takes long; raises an exception to end it.
Check = Callable[[], None]


def never_ends() -> None:
    """The `Check` of a computation that nobody ends.

    Example:
        >>> never_ends()
    """
