"""The exit statuses of the command."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cfcam_gpu.errors import CFCAMError, ConfigError, TooManyErrors

if TYPE_CHECKING:
    from cfcam_gpu.dataset.execution.observer import Tally

FAILED, USAGE, SKIPPED, TOO_MANY_ERRORS = 1, 2, 3, 4


def status_of(error: CFCAMError) -> int:
    """The exit status for an error.

    Example:
        >>> status_of(ConfigError("alpha must be a number"))
        2
    """
    for kind, status in ((ConfigError, USAGE), (TooManyErrors, TOO_MANY_ERRORS)):
        if isinstance(error, kind):
            return status
    return FAILED


def finish(tally: Tally, done: str = "explained") -> None:
    """Ends a command: with an error where no sample could be done, with status 3 where some could not.

    Args:
        done: what is done with a sample, for the message.
    """
    if tally.skipped and not tally.ok:
        raise CFCAMError(f"none of the inputs could be {done}; see the reasons above")
    if tally.skipped:
        raise click.exceptions.Exit(SKIPPED)
