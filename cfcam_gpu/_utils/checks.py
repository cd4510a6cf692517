"""How a long computation is ended from outside."""

from __future__ import annotations

from collections.abc import Callable

#: Called often by whatever takes long; raises an exception to end it.
Check = Callable[[], None]


class Ended(BaseException):
    """What a check raised inside the model's forward pass: it is no failure of the model.

    Attributes:
        error: the check's exception.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def never_ends() -> None:
    """The `Check` of a computation that nobody ends.

    Example:
        >>> never_ends()
    """
