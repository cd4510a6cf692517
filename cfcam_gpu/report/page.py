"""The report's HTML: the template, style and scripts of this package filled in with a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from markupsafe import Markup

from cfcam_gpu._utils.messages import plural
from cfcam_gpu.dataset.accuracy import accuracy_summary
from cfcam_gpu.dataset.judging import Verdicts
from cfcam_gpu.html.render import SHARED, facts, model_layer_and_method, render_page, run_sections
from cfcam_gpu.report.files import Files
from cfcam_gpu.report.survey import BLANK, OK, Survey

#: Joined in this order into the page's one script; the theme's is shared with other pages.
_SCRIPTS = ("data.js", "heatmap.js", "state.js", "cards.js", "detail.js", "theme.js", "page.js")

#: The package of the page's own templates.
_PACKAGE = "cfcam_gpu.report"

#: Up to so many classes the confusions are a matrix; of more, a list of the most frequent ones.
_MOST_IN_MATRIX, _MOST_CONFUSIONS = 20, 50


def render(
    title: str,
    run: dict[str, Any],
    survey: Survey,
    notes: Sequence[str],
    index_json: str,
    files: Files,
    data: str | None = None,
) -> str:
    """The whole page. Everything that is not this package's own text is escaped.

    Args:
        title: heading of the page.
        run: the metadata of the run, the content of run.json.
        survey: the figures of the whole run.
        notes: sentences that stand above the samples.
        index_json: what the script reads first, from `payload.to_json`.
        files: the data of the samples.
        data: the name of what the images lie in.
    """
    return render_page(
        _PACKAGE,
        "report",
        [(SHARED if name == "theme.js" else _PACKAGE, name) for name in _SCRIPTS],
        # Pictures and data may lie in files beside the page.
        images="data: file: 'self'",
        sources="file: 'self'",
        title=title,
        index=Markup(index_json),
        blocks=[Markup(text) for text in files.inline],
        model=" · ".join(filter(None, [model_layer_and_method(run), data and f"images of {data}"])),
        stats=list(_stats(survey)),
        judged=survey.verdicts.judged > 0,
        accuracy=_accuracy(survey.verdicts, run.get("class_names")),
        notes=notes,
        failures=[(*kind, count) for kind, count in survey.failures.most_common()],
        facts=list(facts(run_sections(run))),
    )


def _stats(survey: Survey) -> Iterator[tuple[str, str]]:
    """(figure, what it counts) of the headline."""
    blank, errors = survey.count(BLANK), survey.samples - survey.explained
    yield f"{survey.samples:,}", _noun(survey.samples, "sample")
    yield f"{survey.explained:,}", "explained"
    if survey.samples < len(survey):
        maps = survey.count(OK) + blank
        yield f"{maps:,}", _noun(maps, "map")
    if blank:
        yield f"{blank:,}", "of them blank"
    if errors:
        yield f"{errors:,}", _noun(errors, "error")
    yield from _judged(survey.verdicts)


def _accuracy(verdicts: Verdicts, class_names: Sequence[str] | None) -> dict[str, Any] | None:
    """What the tab of the accuracy shows: the classes, those with the lowest accuracy first, and the confusions."""
    if not verdicts.confusion:
        return None
    summary = accuracy_summary(verdicts, class_names)
    names = {entry["index"]: entry["name"] for entry in summary["classes"]}
    wrong = [entry for entry in summary["confusion"] if entry["label"] != entry["predicted"]]
    classes = sorted(
        (entry for entry in summary["classes"] if entry["labelled"]),
        key=lambda entry: (entry["accuracy"], -entry["labelled"]),
    )
    return summary | {
        "classes": classes,
        "matrix": _matrix(verdicts, names) if len(names) <= _MOST_IN_MATRIX else None,
        "wrong": [
            (names[entry["label"]], names[entry["predicted"]], entry["count"])
            for entry in wrong[:_MOST_CONFUSIONS]
        ],
        "more_wrong": max(0, len(wrong) - _MOST_CONFUSIONS),
    }


def _matrix(verdicts: Verdicts, names: dict[int, str]) -> dict[str, Any]:
    """The confusion matrix: for each class of a label its counts of predictions, with a shade from 0 to 10."""
    rows = []
    for label, name in names.items():
        counts = [verdicts.confusion[label, pred] for pred in names]
        total = max(sum(counts), 1)
        cells = [
            (count, round(10 * count / total), label == pred)
            for pred, count in zip(names, counts, strict=True)
        ]
        rows.append((name, cells))
    return {"names": list(names.values()), "rows": rows}


def _noun(count: int, noun: str) -> str:
    return plural(count, noun).partition(" ")[2]


def _judged(verdicts: Verdicts) -> Iterator[tuple[str, str]]:
    """How many predictions are correct: a percentage, or counts where some labels match no class."""
    if verdicts.unmatched:
        yield f"{verdicts.judged:,} of {verdicts.labelled:,}", "judged"
        if verdicts.judged:
            yield f"{verdicts.correct:,} of {verdicts.judged:,}", "predicted correctly"
    elif verdicts.judged:
        yield f"{verdicts.correct / verdicts.judged:.1%}", "predicted correctly"
