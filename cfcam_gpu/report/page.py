"""The page's HTML: template, style and scripts of this package, and what the run says about itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from markupsafe import Markup

from cfcam_gpu.html.render import SHARED, explained, facts, page, run_sections
from cfcam_gpu.report.files import Files
from cfcam_gpu.report.judging import Verdicts
from cfcam_gpu.report.survey import BLANK, ERROR, OK, Survey

#: Joined in this order into the page's one script.
SCRIPTS = ("data.js", "heatmap.js", "state.js", "cards.js", "detail.js", "theme.js", "page.js")

#: The package of the page's own templates.
REPORT = "cfcam_gpu.report"


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
    return page(
        REPORT,
        "report",
        [(SHARED if name == "theme.js" else REPORT, name) for name in SCRIPTS],
        # Pictures and data may lie in files beside the page.
        images="data: file: 'self'",
        sources="file: 'self'",
        title=title,
        index=Markup(index_json),
        blocks=[Markup(text) for text in files.inline],
        model=explained(run),
        stats=list(_stats(survey)),
        judged=survey.verdicts.judged > 0,
        notes=notes,
        failures=[(*kind, count) for kind, count in survey.failures.most_common()],
        facts=list(facts(run_sections(run))),
    )


def _stats(survey: Survey) -> Iterator[tuple[str, str]]:
    yield f"{len(survey):,}", "sample" if len(survey) == 1 else "samples"
    yield f"{survey.count(OK) + survey.count(BLANK):,}", "explained"
    if survey.count(BLANK):
        yield f"{survey.count(BLANK):,}", "of them blank"
    if survey.count(ERROR):
        yield f"{survey.count(ERROR):,}", "errors" if survey.count(ERROR) > 1 else "error"
    yield from _judged(survey.verdicts)


def _judged(verdicts: Verdicts) -> Iterator[tuple[str, str]]:
    """How many predictions are correct; counts instead of a percentage where some could not be judged."""
    if verdicts.unmatched:
        yield f"{verdicts.judged:,} of {verdicts.labelled:,}", "judged"
        if verdicts.judged:
            yield f"{verdicts.correct:,} of {verdicts.judged:,}", "predicted correctly"
    elif verdicts.judged:
        yield f"{verdicts.correct / verdicts.judged:.1%}", "predicted correctly"
