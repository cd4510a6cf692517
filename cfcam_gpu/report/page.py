"""The page's HTML: template, style and scripts of this package, and what the run says about itself."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from cfcam_gpu.report.files import Files
from cfcam_gpu.report.survey import BLANK, ERROR, OK, Survey

#: Joined in this order into the page's one script.
SCRIPTS = ("data.js", "heatmap.js", "state.js", "cards.js", "detail.js", "page.js")

#: Entries of a list in the run's metadata that are written out.
LISTED = 20


def render(
    title: str,
    run: dict[str, Any],
    survey: Survey,
    notes: Sequence[str],
    index_json: str,
    files: Files,
) -> str:
    """The whole page. Everything that is not this package's own text is escaped.

    `index_json` and the files' inline blocks must come from `payload.to_json`.
    """
    style = _template("report.css")
    script = '(() => {\n"use strict";\n' + "\n".join(map(_template, SCRIPTS)) + "})();\n"
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_template("report.html")).render(
        title=title,
        policy=_policy(style, script),
        style=Markup(style),
        script=Markup(script),
        index=Markup(index_json),
        blocks=[Markup(text) for text in files.inline],
        model=" · ".join(_model(run)),
        stats=list(_stats(survey)),
        judged=survey.judged > 0,
        notes=notes,
        failures=[(*kind, count) for kind, count in survey.failures.most_common()],
        facts=list(_facts(run)),
    )


def _template(name: str) -> str:
    return (resources.files("cfcam_gpu.report") / "templates" / name).read_text("utf-8")


def _policy(style: str, script: str) -> str:
    """Only this page's own style and script, and files beside it: nothing else can run or be asked for."""
    return (
        "default-src 'none'; img-src data: file: 'self'; "
        f"style-src {_hash(style)}; script-src {_hash(script)} file: 'self'; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _model(run: dict[str, Any]) -> Iterator[str]:
    known = run.get("fingerprint") or {}
    for name in ("model", "layer"):
        if known.get(name):
            yield f"{name} {known[name]}"


def _stats(survey: Survey) -> Iterator[tuple[str, str]]:
    yield f"{len(survey):,}", "sample" if len(survey) == 1 else "samples"
    yield f"{survey.count(OK) + survey.count(BLANK):,}", "explained"
    if survey.count(BLANK):
        yield f"{survey.count(BLANK):,}", "of them blank"
    if survey.count(ERROR):
        yield f"{survey.count(ERROR):,}", "errors" if survey.count(ERROR) > 1 else "error"
    if survey.judged:
        yield f"{survey.correct / survey.judged:.1%}", "predicted correctly"


def _facts(run: dict[str, Any]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Sections of (name, value) for the run's metadata; class names are on the page already."""
    info, known = dict(run.get("info") or {}), dict(run.get("fingerprint") or {})
    if isinstance(info.get("command"), list):
        info["command"] = shlex.join(map(str, info["command"]))
    known.pop("preprocess", None)  # it has its own section
    sections = {
        "Run": info,
        "Fingerprint": known,
        "Preprocessing": run.get("preprocess"),
        "Store": {key: run.get(key) for key in ("format", "shard_size", "grid", "size")},
    }
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
