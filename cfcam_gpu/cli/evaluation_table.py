"""What `cfcam evaluate` prints: the table of means, and where the results are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from cfcam_gpu._utils.messages import plural, printable
from cfcam_gpu.cli.printing import Cell, print_table
from cfcam_gpu.evaluation import tables
from cfcam_gpu.evaluation.options import EvaluationOptions
from cfcam_gpu.evaluation.run import EvaluationResult

if TYPE_CHECKING:
    from cfcam_gpu.evaluation.summary import Summary


def print_evaluation(outcome: EvaluationResult, options: EvaluationOptions) -> None:
    """Prints the table of means, where there are any, then where the results and the page are."""
    run, summary = outcome.run, outcome.summary
    if summary is not None and summary["images"]:
        print_table({"metric": "left", **dict.fromkeys(summary["methods"], "right")}, _rows(summary))
        click.echo(f"{tables.legend(summary)} {tables.BEST} best, where that is clear.")
        for sentence in tables.same_for_every_class(summary):
            click.echo(sentence)
    before = f" ({run.before} of them before)" if run.before else ""
    methods = plural(len(options.methods_by_label()), "method")
    click.echo(
        f"evaluated {methods} on {run.tally.ok} of {run.total} images{before} in "
        f"{run.seconds:.1f} s, {run.tally.skipped} skipped; results in {printable(run.place)}"
    )
    if outcome.page is not None:
        click.echo(f"report: {printable(run.located(outcome.page))}")


def _rows(summary: Summary) -> Iterator[tuple[Cell, ...]]:
    """Lines of the table: a metric's column and each method's mean with its interval, then the speed."""
    for column in tables.scalars(summary):
        name, better = column["name"], column["better"]
        if tables.has_values(summary, name):
            best = tables.best_method(summary, name, better)
            cells = (_cell(summary, method, name, best=method == best) for method in summary["methods"])
            yield (f"{tables.title(name)} {tables.ARROWS[better]}".strip(), *cells)
    if summary["cost"]:
        yield ("images/s", *(tuple(tables.speed(summary, method)) for method in summary["methods"]))


def _cell(summary: Summary, method: str, column: str, *, best: bool) -> Cell:
    entry = summary["methods"][method][column]
    marks = f"{tables.MARKS[tables.verdict(summary, method, column)]}{tables.BEST if best else ''}"
    return f"{tables.number(entry['mean'])} {marks}".strip(), tables.interval(entry)
