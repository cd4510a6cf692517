"""What the HTML pages share: templates, a policy that lets nothing else in, and metadata as text."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

#: The package whose templates the others build on.
SHARED = "cfcam_gpu.html"

#: Entries of a list in the metadata that are written out.
LISTED = 20


def template(package: str, name: str) -> str:
    """The text of a file in a package's folder of templates."""
    return (resources.files(package) / "templates" / name).read_text("utf-8")


def page(
    package: str,
    name: str,
    scripts: Sequence[tuple[str, str]],
    *,
    images: str = "data:",
    sources: str = "",
    **values: Any,
) -> str:
    """The template NAME.html of a package filled in; everything that is not `Markup` is escaped.

    It extends `base.html`, its style follows `base.css`. Only these and the scripts (package and file
    of each) can run, and only `images` and `sources` (of a content security policy) be asked for.
    """
    templates = {"base.html": template(SHARED, "base.html"), name: template(package, f"{name}.html")}
    environment = Environment(
        loader=DictLoader(templates),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = template(SHARED, "base.css") + template(package, f"{name}.css")
    text = "".join(template(*script) for script in scripts)
    script = f'(() => {{\n"use strict";\n{text}}})();\n'
    policy = (
        f"default-src 'none'; img-src {images}; style-src {_hash(style)}; "
        f"script-src {_hash(script)} {sources}".rstrip()
        + "; base-uri 'none'; form-action 'none'"
    )
    return environment.get_template(name).render(
        policy=policy, style=Markup(style), script=Markup(script), **values
    )


def explained(run: Mapping[str, Any]) -> str:
    """Model and layer of a run, as far as it says them."""
    known = run.get("fingerprint") or {}
    return " · ".join(f"{name} {known[name]}" for name in ("model", "layer") if known.get(name))


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def run_sections(run: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of a run under headings; class names are on the page already."""
    info, known = dict(run.get("info") or {}), dict(run.get("fingerprint") or {})
    if isinstance(info.get("command"), list):
        info["command"] = shlex.join(map(str, info["command"]))
    known.pop("preprocess", None)  # it has its own section
    return {
        "Run": info,
        "Fingerprint": known,
        "Preprocessing": run.get("preprocess"),
        "Store": {key: run[key] for key in ("format", "shard_size", "grid", "size") if key in run},
    }


def facts(sections: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """(heading, [(name, value)]) of those sections that have values; nested names are joined by dots."""
    for heading, values in sections.items():
        if isinstance(values, dict) and values:
            yield heading, list(_flat(values))


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _flat(value, f"{name}.")
        else:
            yield name, _text(value)


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        more = f", … ({len(value):,} in all)" if len(value) > LISTED else ""
        return ", ".join(map(_text, value[:LISTED])) + more
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value is None else str(value)
