"""How the help of a command and a mistake in its use look: panels drawn with plain text, which is quick."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import click

#: Corners and lines of a panel, and what stands for them where the terminal cannot print them.
_LINES, _PLAIN_LINES = "╭╮╰╯─│", "++++-|"

#: Space between the columns of a panel.
_GAP = "  "

#: A space at which no line is broken.
_NO_BREAK = "\u00a0"


@dataclass(frozen=True)
class Row:
    """A line of a panel: the name of an option, what stands for its value, and what it does."""

    name: str
    metavar: str = ""
    text: str = ""
    required: bool = False


def help_page(usage: str, about: str, panels: Mapping[str, Sequence[Row]], examples: str) -> str:
    """The help of a command, as wide as the terminal.

    Args:
        usage: the line after the word Usage.
        about: paragraphs of prose.
        panels: title -> rows; a panel without rows is left out.
        examples: printed at the end as it is.
    """
    width = _width()
    paragraphs = [" ".join(paragraph.split()) for paragraph in about.strip().split("\n\n")]
    lines = ["", f" {click.style('Usage:', fg='yellow')} {usage}", ""]
    for paragraph in paragraphs:
        lines += [f" {line}" for line in textwrap.wrap(paragraph, width - 2)] + [""]
    for title, rows in panels.items():
        if rows:
            lines += _panel(title, rows, width)
    return "\n".join([*lines, *([examples.strip("\n")] if examples else []), ""])


def error_panel(message: str) -> str:
    """A message in a panel, as wide as the terminal."""
    return "\n".join(_box("Error", textwrap.wrap(message, _width() - 4), _width(), "red"))


def _width() -> int:
    return max(40, shutil.get_terminal_size().columns)


def _panel(title: str, rows: Sequence[Row], width: int) -> Iterator[str]:
    """A panel with a column for the marks of required options, for names, for metavars and for texts."""
    mark = "*" if any(row.required for row in rows) else ""
    name_width = max(len(row.name) for row in rows)
    metavar_width = max(len(row.metavar) for row in rows)
    before = [len(mark), name_width, metavar_width]
    text_width = max(20, width - 4 - sum(size + len(_GAP) for size in before if size))
    lines = []
    for row in rows:
        for i, text in enumerate(_wrapped(row.text, text_width)):
            cells = [
                ((mark if row.required else "") if i == 0 else "", len(mark), "red"),
                (row.name if i == 0 else "", name_width, "cyan"),
                (row.metavar if i == 0 else "", metavar_width, "yellow"),
            ]
            start = "".join(click.style(cell.ljust(size), fg=fg) + _GAP for cell, size, fg in cells if size)
            lines.append(start + text)
    return _box(title, lines, width, "bright_black")


def _wrapped(text: str, width: int) -> list[str]:
    """The lines of a text; what stands in brackets at its end, such as a default, stays in one."""
    start = text.rfind("[") if text.endswith("]") else len(text)
    together = text[:start] + text[start:].replace(" ", _NO_BREAK)
    lines = textwrap.wrap(together, width, break_on_hyphens=False)
    return [line.replace(_NO_BREAK, " ") for line in lines] or [""]


def _box(title: str, lines: Iterable[str], width: int, colour: str) -> Iterator[str]:
    top_left, top_right, low_left, low_right, across, down = tuple(_box_characters())

    side = click.style(down, fg=colour)
    yield click.style(f"{top_left}{across} {title} {across * (width - 5 - len(title))}{top_right}", fg=colour)
    for line in lines:
        padding = " " * (width - 4 - len(click.unstyle(line)))
        yield f"{side} {line}{padding} {side}"
    yield click.style(f"{low_left}{across * (width - 2)}{low_right}", fg=colour)


def _box_characters() -> str:
    try:
        _LINES.encode(sys.stdout.encoding or "ascii")
    except UnicodeError:
        return _PLAIN_LINES
    return _LINES
