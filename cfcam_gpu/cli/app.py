"""The group of commands: loads the one that is asked for, and turns foreseeable failures into exit statuses."""

from __future__ import annotations

import difflib
import errno
import importlib
import os
import signal
import sys
from contextlib import suppress
from typing import Any, NoReturn

import click

import cfcam_gpu
from cfcam_gpu._utils.json_lines import asked
from cfcam_gpu._utils.messages import did_you_mean
from cfcam_gpu.cli.help import Row, error_panel, help_page
from cfcam_gpu.cli.options import Command
from cfcam_gpu.cli.printing import say
from cfcam_gpu.cli.status import FAILED, status_of
from cfcam_gpu.dataset.store.atomic_files import NO_SPACE
from cfcam_gpu.errors import CFCAMError

#: In the order of the help. Each is in the module of its name, which is imported when the command is used.
COMMANDS = ("explain", "evaluate", "layers", "demo", "report", "export", "doctor")

EXAMPLES = """
 Examples:
   cfcam demo
   cfcam explain photos --out maps
   cfcam explain photos --out maps --target "Egyptian cat" --cmap jet
   cfcam report maps
   cfcam evaluate photos --out measured --methods cfcam,gradcam
   cfcam layers torchvision:resnet50
   cfcam doctor

 Exit status: 0 all well, 1 failed, 2 wrong usage, 3 done but some inputs were
 skipped (each is named, with the reason, on stderr), 4 stopped because too many
 were, 130 and 143 interrupted. The same command goes on where a run ended.
"""


class _Commands(click.Group):
    """Commands whose foreseeable failures end in one line on stderr and an exit status."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> Command | None:
        if cmd_name not in COMMANDS:
            return None
        loaded: Command = getattr(importlib.import_module(f"cfcam_gpu.cli.{cmd_name}"), cmd_name)
        return loaded

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], COMMANDS)
            ctx.fail(f"No such command '{args[0]}'{did_you_mean(close)}")
        return super().resolve_command(ctx, args)

    def get_help(self, ctx: click.Context) -> str:
        commands = [Row(name, "", _first_paragraph(self.get_command(ctx, name))) for name in COMMANDS]
        options = [
            Row("--version", "", "Print the version."),
            Row("--help, -h", "", "Show this message and exit."),
        ]
        panels = {"Options": options, "Commands": commands}
        return help_page(f"{ctx.command_path} COMMAND ...", self.help or "", panels, EXAMPLES)

    def main(self, *args: Any, **settings: Any) -> NoReturn:
        """Runs a command and ends the process with its exit status."""
        try:
            status = super().main(*args, **{**settings, "standalone_mode": False})
            sys.stdout.flush()
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.ctx.get_help() if error.ctx else "")
            status = error.exit_code
        except click.UsageError as error:
            if asked(sys.argv):
                say(f"error: {error.format_message()}")
            else:
                _show_usage(error)
            status = error.exit_code
        except OSError as error:
            if error.filename is not None or error.errno not in {*NO_SPACE, errno.EPIPE, errno.EIO}:
                raise  # it does not concern stdout
            status = _unwritable_output(error)
        sys.exit(status)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CFCAMError as error:
            say(f"error: {error}")
            raise click.exceptions.Exit(status_of(error)) from error
        except KeyboardInterrupt as error:
            say("interrupted; what is finished is kept, the same command goes on from there")
            raise click.exceptions.Exit(128 + getattr(error, "number", signal.SIGINT)) from error


def _show_usage(error: click.UsageError) -> None:
    """Tells a mistake in the arguments, with how the command is used."""
    if error.ctx is not None:
        click.echo(error.ctx.get_usage(), err=True)
        click.echo(f"Try '{error.ctx.command_path} --help' for help.", err=True)
    click.echo(error_panel(error.format_message()), err=True)


def _unwritable_output(error: OSError) -> int:
    """Tells that stdout takes nothing, unless its reader has gone; the exit status."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what Python still has for stdout would fail once more
    if error.errno != errno.EPIPE:
        with suppress(OSError):
            say(f"error: cannot write to stdout: {error.strerror or error}")
    return FAILED


def _first_paragraph(command: Command | None) -> str:
    about = command.help if command else None
    return " ".join((about or "").strip().partition("\n\n")[0].split())


@click.group(cls=_Commands, name="cfcam", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(cfcam_gpu.__version__, message="cfcam %(version)s")
def app() -> None:
    """CF-CAM heatmaps: which parts of an image speak for a class."""
