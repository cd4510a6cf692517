"""The command `cfcam`: argument parsing and printing only. One module per group of commands."""

from __future__ import annotations

from collections.abc import Callable

from cfcam_gpu.cli.app import Command, app, main
from cfcam_gpu.cli.evaluate import evaluate_command
from cfcam_gpu.cli.explain import explain_command
from cfcam_gpu.cli.inspect import doctor, layers
from cfcam_gpu.cli.results import demo, export_results, report

__all__ = ["app", "main"]

#: In the order of the help.
COMMANDS: dict[str, Callable[..., None]] = {
    "explain": explain_command,
    "evaluate": evaluate_command,
    "layers": layers,
    "demo": demo,
    "report": report,
    "export": export_results,
    "doctor": doctor,
}

for _name, _command in COMMANDS.items():
    app.command(_name, cls=Command)(_command)
