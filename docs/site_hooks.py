"""The site beside its configuration.

The README is its home page, links to files outside `docs` become names, and formulas MathML, which needs no script.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]

#: A Markdown link or picture whose target leaves `docs`.
_OUTSIDE = re.compile(r"(!?)\[([^]]*)\]\((\.\./[^)]+)\)")

#: Code, which stays as it is, or a formula between dollars.
_CODE_OR_FORMULA = re.compile(r"^```.*?^```|`[^`]*`|\$(?P<formula>[^$\s][^$]*)\$", re.DOTALL | re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:
    """Adds the README as index.md."""
    home = (ROOT / "README.md").read_text(encoding="utf-8")
    # Seen from `docs`, what was in it is beside the page, and the rest is outside.
    home = re.sub(r"\]\((?!https?:|docs/|#)", "](../", home).replace("](docs/", "](")
    files.append(File.generated(config, "index.md", content=home))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Names files of the repository that are not part of the site, as `text (path)`, and makes MathML of formulas.

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

    return _CODE_OR_FORMULA.sub(_mathml, _OUTSIDE.sub(named, markdown))


def _mathml(match: re.Match[str]) -> str:
    formula = match["formula"]
    return match[0] if formula is None else convert(" ".join(formula.split()))
