"""The command `cfcam`: its group, and how foreseeable failures end."""

from __future__ import annotations

import signal
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

import cfcam_gpu
from cfcam_gpu.cli.printing import say
from cfcam_gpu.dataset.execution.observer import Tally
from cfcam_gpu.errors import CFCAMError, ConfigError, TooManyErrors

FAILED, USAGE, SKIPPED, TOO_MANY_ERRORS = 1, 2, 3, 4


#: What follows the help of a command; typer itself would run the lines together.
EXAMPLES = {
    "cfcam": """
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
""",
    "explain": """
 Examples:
   cfcam explain cat.jpg dog.jpg --out maps
   cfcam explain photos "more/*.png" --out maps --overlays jpeg
   cfcam explain train.csv --out maps --overlays none --workers 8
   cfcam explain photos --out maps --model torchvision:resnet50@DEFAULT
   cfcam explain xrays --out maps --model torchvision:resnet50 \\
       --num-classes 2 --weights best_model.pth --layer layer4.2
""",
    "evaluate": """
 Examples:
   cfcam evaluate photos --out measured
   cfcam evaluate photos --out measured --methods cfcam,cfcam:upstream,gradcam
   cfcam evaluate photos --out measured --masks masks --metrics localisation
   cfcam evaluate list.csv --out measured --metrics all --methods all
""",
    "layers": """
 Examples:
   cfcam layers efficientnet-lite0
   cfcam layers torchvision:resnet50 --size 320x320
""",
    "export": """
 Examples:
   cfcam export maps --to npz maps.npz --size 56
   cfcam export maps --to png heatmaps --cmap jet
""",
}


class Command(TyperCommand):
    """A command whose help ends with examples, where there are some."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        super().format_help(ctx, formatter)
        if self.name in EXAMPLES:
            typer.echo(EXAMPLES[self.name].strip("\n"))


class _Commands(TyperGroup):
    """Commands whose foreseeable failures end in one line on stderr and an exit status."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        super().format_help(ctx, formatter)
        typer.echo(EXAMPLES["cfcam"].strip("\n"))

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CFCAMError as error:
            say(f"error: {error}")
            raise typer.Exit(_status(error)) from error
        except KeyboardInterrupt as error:
            say("interrupted; what is finished is kept, the same command goes on from there")
            raise typer.Exit(128 + getattr(error, "number", signal.SIGINT)) from error


def _status(error: CFCAMError) -> int:
    for kind, status in ((ConfigError, USAGE), (TooManyErrors, TOO_MANY_ERRORS)):
        if isinstance(error, kind):
            return status
    return FAILED


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Entry point of the command `cfcam`."""
    app(prog_name="cfcam")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"cfcam {cfcam_gpu.__version__}")
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """CF-CAM heatmaps: which parts of an image speak for a class."""


def finish(tally: Tally, done: str = "explained") -> None:
    """Ends a command with an error where no sample could be done, with a status of its own where some could not."""
    if tally.skipped and not tally.ok:
        raise CFCAMError(f"none of the inputs could be {done}; the reasons stand above")
    if tally.skipped:
        raise typer.Exit(SKIPPED)
