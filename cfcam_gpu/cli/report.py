"""`cfcam report`. What draws the page is imported inside the function, so that its help is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import click

from cfcam_gpu._utils.messages import printable
from cfcam_gpu._utils.option import OUTPUT, Option
from cfcam_gpu.cli.interrupt import raise_again
from cfcam_gpu.cli.options import Results, command


@command()
def report(
    out: Results,
    page: Annotated[Path | None, Option("The page; OUT/report.html.", OUTPUT, "FILE", name="out")] = None,
) -> None:
    """Write a page to look through the results of a run; it opens from disk, without a server."""
    from cfcam_gpu.cli.progress import write_report_with_progress

    raise_again()
    click.echo(printable(f"report: {write_report_with_progress(out, page)}"))
