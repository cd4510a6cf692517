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
    """As `rewrite_all`, for one page."""
    rewrite_all({path: tables}, module, about)


def rewrite_all(pages: Mapping[Path, Mapping[str, str]], module: str, about: str | None) -> None:
    """The command that rewrites the tables of pages; with `--check` it only says whether they are up to date."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0] if about else None)
    parser.add_argument("--check", action="store_true", help="only say whether the pages are up to date")
    options = parser.parse_args()
    before = {path: path.read_text(encoding="utf-8") for path in pages}
    after = {path: rewritten(page, pages[path]) for path, page in before.items()}
    stale = [path for path in pages if before[path] != after[path]]
    if options.check:
        names = ", ".join(map(str, stale))
        sys.exit(f"out of date: {names}; run: python -m {module}" if stale else None)
    for path in stale:
        path.write_text(after[path], encoding="utf-8")
