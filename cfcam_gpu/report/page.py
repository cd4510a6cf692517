"""The report's HTML: the template, style and scripts of this package filled in with a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from markupsafe import Markup

from cfcam_gpu._utils.messages import plural
from cfcam_gpu.html.render import SHARED, facts, model_and_layer, render_page, run_sections
from cfcam_gpu.report.files import Files
from cfcam_gpu.report.judging import Verdicts
from cfcam_gpu.report.survey import BLANK, OK, Survey

#: Joined in this order into the page's one script; the theme's is shared with other pages.
_SCRIPTS = ("data.js", "heatmap.js", "state.js", "cards.js", "detail.js", "theme.js", "page.js")

#: The package of the page's own templates.
_PACKAGE = "cfcam_gpu.report"


def render(
    title: str,
    run: dict[str, Any],
    survey: Survey,
    notes: Sequence[str],
    index_json: str,
    files: Files,
) -> str:
    """The whole page. Everything that is not this package's own text is escaped.

    Args:
        title: heading of the page.
        run: the metadata of the run, the content of run.json.
        survey: the figures of the whole run.
        notes: sentences that stand above the samples.
        index_json: what the script reads first, from `payload.to_json`.
        files: the data of the samples.
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
        model=model_and_layer(run),
        stats=list(_stats(survey)),
        judged=survey.verdicts.judged > 0,
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
