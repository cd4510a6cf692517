"""What every command prints with: lines, JSON, tables. Rich is imported when a table is printed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from cfcam_gpu._utils.messages import printable
from cfcam_gpu._utils.places.masking import masked
from cfcam_gpu.dataset.sources.sample import split_uri

if TYPE_CHECKING:
    from cfcam_gpu.dataset.store.schema import Row


Cell: TypeAlias = str | tuple[str, ...]


def say(line: str) -> None:
    """One line on stderr."""
    click.echo(printable(masked(line)), err=True)


def shown_path(row: Row) -> str:
    """The place of a sample's image as it is printed; below the current folder without that folder's path."""
    scheme, parts = split_uri(row["uri"])
    if scheme == "broken":  # the reason is the row's message
        return parts[0]
    relative = os.path.relpath(parts[0])
    if scheme == "file":
        return parts[0] if relative.startswith("..") else relative
    if not os.path.isabs(parts[0]) or relative.startswith(".."):
        return str(row["uri"])
    return f"{scheme}:{'#'.join([relative, *parts[1:]])}"


def print_json(content: dict[str, Any]) -> None:
    """One JSON object on stdout."""
    click.echo(json.dumps(content, indent=2, allow_nan=False))


def print_table(columns: dict[str, Any], rows: Iterable[tuple[Cell, ...]]) -> None:
    """Prints rows of cells on stdout.

    Args:
        columns: heading -> alignment.
        rows: a cell is a text, which is one line whatever it holds, or a tuple of lines.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 120)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading, justify in columns.items():
        table.add_column(heading, justify=justify, overflow="fold")
    for row in rows:
        lines = ((cell,) if isinstance(cell, str) else cell for cell in row)
        table.add_row(*(Text("\n".join(map(printable, cell))) for cell in lines))
    console.print(table)
