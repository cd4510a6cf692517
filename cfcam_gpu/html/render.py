"""What the HTML pages share: filling in templates, a security policy, and the run's metadata as text."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

#: The package with the base template and the scripts of both pages.
SHARED = "cfcam_gpu.html"

#: At most so many entries of a list in the metadata are written out.
_MOST_ENTRIES = 20


def render_page(
    package: str,
    name: str,
    scripts: Sequence[tuple[str, str]],
    *,
    images: str = "data:",
    sources: str = "",
    **values: Any,
) -> str:
    """Fills in a template; every value that is not `Markup` is escaped.

    The page's content security policy allows its own style and script, and nothing from the network.

    Args:
        package: the package whose folder `templates` has NAME.html, which extends `base.html`, and NAME.css,
            which follows `base.css`.
        name: NAME.
        scripts: (package, file) of each script; they are joined in this order.
        images: where the page may load pictures from, as a content security policy says it.
        sources: where it may load scripts from beside its own, likewise.
        values: what the template inserts.
    """
    templates = {"base.html": _template(SHARED, "base.html"), name: _template(package, f"{name}.html")}
    environment = Environment(
        loader=DictLoader(templates),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = _template(SHARED, "base.css") + _template(package, f"{name}.css")
    text = "".join(_template(*script) for script in scripts)
    script = f'(() => {{\n"use strict";\n{text}}})();\n'
    policy = (
        f"default-src 'none'; img-src {images}; style-src {_hash(style)}; "
        f"script-src {_hash(script)} {sources}".rstrip()
        + "; base-uri 'none'; form-action 'none'"
    )
    return environment.get_template(name).render(
        policy=policy, style=Markup(style), script=Markup(script), **values
    )


def model_layer_and_method(run: Mapping[str, Any]) -> str:
    """The model, the layer and the method of a run, as far as its metadata say them.

    Example:
        >>> model_layer_and_method({"fingerprint": {"model": "efficientnet-lite0", "method": "gradcam"}})
        'model efficientnet-lite0 · method gradcam'
    """
    fingerprint = run.get("fingerprint") or {}
    names = ("model", "layer", "method")
    return " · ".join(f"{name} {fingerprint[name]}" for name in names if fingerprint.get(name))


def run_sections(run: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of a run by headings, without the class names, which the page shows elsewhere.

    Example:
        >>> run_sections({"info": {"command": ["cfcam", "explain", "my photos"]}})["Run"]
        {'command': "cfcam explain 'my photos'"}
    """
    info, fingerprint = dict(run.get("info") or {}), dict(run.get("fingerprint") or {})
    if isinstance(info.get("command"), list):
        info["command"] = shlex.join(map(str, info["command"]))
    fingerprint.pop("preprocess", None)  # it has its own section
    return {
        "Run": info,
        "Fingerprint": fingerprint,
        "Preprocessing": run.get("preprocess"),
        "Store": {key: run[key] for key in ("format", "shard_size", "grid", "size") if key in run},
    }


def facts(sections: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """(heading, [(name, value)]) of the sections that have values; names inside others are joined by dots.

    Example:
        >>> list(facts({"Run": {"engine": "torch", "made": {"at": 1.0, "by": None}}, "Store": {}}))
        [('Run', [('engine', 'torch'), ('made.at', '1'), ('made.by', 'none')])]
    """
    for heading, values in sections.items():
        if isinstance(values, dict) and values:
            yield heading, list(_flat(values))


def _template(package: str, name: str) -> str:
    """The text of a file in a package's folder of templates."""
    return (resources.files(package) / "templates" / name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _flat(value, f"{name}.")
        else:
            yield name, _text(value)


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        more = f", … ({len(value):,} in all)" if len(value) > _MOST_ENTRIES else ""
        return ", ".join(map(_text, value[:_MOST_ENTRIES])) + more
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value is None else str(value)
