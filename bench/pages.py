"""Pages whose tables are made from the committed results. A table is between `<!-- NAME -->` and `<!-- end -->`."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path


def table(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """A Markdown table.

    Example:
        >>> print(table(("a", "b"), [(1, 2)]))
        | a | b |
        | --- | --- |
        | 1 | 2 |
    """
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def rewritten(page: str, tables: Mapping[str, str]) -> str:
    """The page with its tables replaced.

    Args:
        tables: name -> Markdown.

    Raises:
        ValueError: the page has no place for one of them.
    """
    for name, text in tables.items():
        place = re.compile(rf"(?<=<!-- {name} -->\n).*?(?=<!-- end -->)", re.DOTALL)
        if not place.search(page):
            raise ValueError(f"the page has no place for the table {name!r}")
        page = place.sub(lambda _, text=text: f"\n{text}\n\n", page, count=1)  # type: ignore[misc]
    return page


def rewrite(path: Path, tables: Mapping[str, str], module: str, about: str | None) -> None:
    """The command that rewrites the tables of a page; with `--check` it only says whether they are up to date."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0] if about else None)
    parser.add_argument("--check", action="store_true", help="only say whether the page is up to date")
    options = parser.parse_args()
    before = path.read_text(encoding="utf-8")
    after = rewritten(before, tables)
    if options.check:
        sys.exit(None if before == after else f"{path} is out of date; run: python -m {module}")
    path.write_text(after, encoding="utf-8")
