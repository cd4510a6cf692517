"""The site beside its configuration: the README is its home page, links to files outside `docs` become names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]

#: A Markdown link or picture whose target leaves `docs`.
_OUTSIDE = re.compile(r"(!?)\[([^]]*)\]\((\.\./[^)]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Adds the README as index.md."""
    home = (ROOT / "README.md").read_text(encoding="utf-8")
    # Seen from `docs`, what was in it is beside the page, and the rest is outside.
    home = re.sub(r"\]\((?!https?:|docs/|#)", "](../", home).replace("](docs/", "](")
    files.append(File.generated(config, "index.md", content=home))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Names files of the repository that are not part of the site, as `text (path)`.

    Raises:
        FileNotFoundError: there is no such file.
    """

    def named(match: re.Match[str]) -> str:
        picture, text, target = match.groups()
        path = (ROOT / "docs" / target).resolve()
        if picture or not path.exists():
            raise FileNotFoundError(f"{page.file.src_uri}: the site cannot show {target}; move it into docs")
        name = path.relative_to(ROOT).as_posix()
        return f"`{name}`" if text.strip("`") == name else f"{text} (`{name}`)"

    return _OUTSIDE.sub(named, markdown)
