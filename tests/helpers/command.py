"""Runs the command `cfcam` inside the test process."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from click.testing import CliRunner

#: Exit statuses of the command.
OK, FAILED, USAGE, SKIPPED, TOO_MANY_ERRORS, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 4, 130, 143


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit status, and what it wrote to standard output and standard error."""

    status: int
    out: str
    err: str


def cfcam(*arguments: str, columns: int = 200) -> Outcome:
    """`cfcam ARGUMENTS` in a terminal of so many columns.

    An exception that the command itself does not turn into an exit status is raised here.
    """
    from cfcam_gpu.cli.app import app

    result = CliRunner(env={"COLUMNS": str(columns)}).invoke(app, list(arguments), prog_name="cfcam")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert "Traceback" not in result.output
    return Outcome(result.exit_code, result.stdout, result.stderr)


def parsed(text: str) -> Any:
    """The value of a JSON text; NaN and Infinity, which JSON does not have, fail the test."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
