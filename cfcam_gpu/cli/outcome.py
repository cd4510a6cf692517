"""What `cfcam explain` and `cfcam demo` print at the end of a run: a table, or one JSON object."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import click

from cfcam_gpu._utils.messages import printable
from cfcam_gpu.cli.printing import print_table, shown_path
from cfcam_gpu.dataset.accuracy import judge_results
from cfcam_gpu.dataset.run_summary import RunSummary
from cfcam_gpu.dataset.store.results import Results
from cfcam_gpu.dataset.store.schema import COLUMNS, ColumnName, Row
from cfcam_gpu.methods import METHODS

#: With more rows than this only the blank ones are listed.
MOST_ROWS = 50

#: With more samples than the first, --json lists only blank and failed ones, up to the second.
MOST_IN_JSON, MOST_PROBLEMS = 1000, 100


class RunOutcome:
    """What a command prints at the end of a run.

    Args:
        summary: what the run did.
        results: what it stored; only the parts of this process are printed.
        kind: the picture that the table's last column names, a key of what `files` returns.
        files: a row's pictures, kind -> path below the output folder; None: the overlay.
        name: what a row is called in the first column.
    """

    def __init__(
        self,
        summary: RunSummary,
        results: Results,
        kind: str = "overlay",
        files: Callable[[Row], dict[str, str]] | None = None,
        name: Callable[[Row], str] = shown_path,
    ) -> None:
        self.summary = summary
        self.results = results.only(summary.parts)
        self.kind = kind
        self.files = files or (lambda row: {} if row["overlay"] is None else {"overlay": row["overlay"]})
        self.name = name

    def as_json(self) -> dict[str, Any]:
        """What --json prints of the run: counts, and an entry for each image, of a large run for the problems."""
        summary = self.summary
        few = summary.total <= MOST_IN_JSON
        rows = (row for row in self._rows() if few or row["status"] != "ok" or row["blank"])
        most = MOST_IN_JSON if few else MOST_PROBLEMS
        return {
            "out": summary.place,
            "counts": dataclasses.asdict(summary.tally),
            "samples": summary.total,
            "done_before": summary.before,
            "others_left": summary.others_left,
            "seconds": round(summary.seconds, 3),
            "images": [self._entry(row) for row in islice(rows, most)],
        }

    def print(self, *, show_predicted: bool = False) -> None:
        """Prints a table of the images and a line of counts; `show_predicted`: with the predicted class."""
        summary, tally = self.summary, self.summary.tally
        few = summary.total <= MOST_ROWS
        clustered = METHODS[self.results.run["fingerprint"].get("method", "cfcam")].is_cfcam
        left_out = (set() if show_predicted else {"predicted"}) | (set() if clustered else _OF_CLUSTERS)
        columns = [c for c in _COLUMNS if c[0] not in left_out]
        shown = (row for row in self._rows() if row["status"] == "ok" and (few or row["blank"]))
        table = [
            (self.name(row), *(show(row) for _, _, show in columns), self.files(row).get(self.kind, ""))
            for row in islice(shown, MOST_ROWS)
        ]
        pictures = self.results.run["fingerprint"]["overlays"]["kind"] != "none"
        headings = {"file": "left"} | {heading: justify for heading, justify, _ in columns}
        if table and pictures:
            print_table({**headings, self.kind: "left"}, table)
        elif table:
            print_table(headings, [line[:-1] for line in table])
        before = f" ({summary.before} of them before)" if summary.before else ""
        click.echo(
            f"explained {tally.ok} of {summary.total} images{before} in {summary.seconds:.1f} s "
            f"({summary.now / summary.seconds:.1f} images/s), {tally.blank} blank, {tally.skipped} skipped; "
            f"{'pictures' if pictures else 'results'} in {printable(summary.place)}"
        )
        verdicts = judge_results(self.results)
        if verdicts.unmatched:
            click.echo(
                f"{verdicts.judged} of {verdicts.labelled} labels judged, {verdicts.correct} of these predicted "
                "correctly; the other labels match no class of the model"
            )
        elif verdicts.judged:
            click.echo(
                f"{verdicts.correct} of {verdicts.judged} predictions agree with their label "
                f"({verdicts.correct / verdicts.judged:.1%})"
            )

    def _rows(self) -> Iterator[Row]:
        return self.results.rows([name for name in COLUMNS if name != "grid"])

    def _entry(self, row: Row) -> dict[str, Any]:
        files = {
            kind: self.summary.located(self.summary.out / file) for kind, file in self.files(row).items()
        }
        return {
            "file": self.name(row),
            **{key: row[column] for key, column in _KEYS.items()},
            "outputs": files,
        }


#: Key of an image in --json -> the column it comes from.
_KEYS: dict[str, ColumnName] = {
    "sample_id": "sample_id", "status": "status", "stage": "stage", "error": "message",
    "error_type": "error_type", "label": "label", "class_index": "target", "class_name": "target_name",
    "probability": "target_prob", "predicted_index": "pred", "predicted_name": "pred_name",
    "predicted_probability": "prob", "n_clusters": "n_clusters", "noise_fraction": "noise_fraction",
    "blank": "blank",
}  # fmt: skip


def _percentage(value: float | None) -> str:
    """A fraction from 0 to 1 as a percentage; empty for None."""
    if value is None:
        return ""
    return "<0.1%" if 0 < value < 0.0005 else f"{value:.1%}"


#: Columns that only CF-CAM fills.
_OF_CLUSTERS = {"clusters", "noise"}

#: Heading, alignment and text of the result table's columns between the file and the picture.
_COLUMNS: list[tuple[str, str, Callable[[Row], str]]] = [
    ("class", "left", lambda row: row["target_name"] or ""),
    ("probability", "right", lambda row: _percentage(row["target_prob"])),
    ("predicted", "left", lambda row: row["pred_name"] or ""),
    ("clusters", "right", lambda row: str(row["n_clusters"])),
    ("noise", "right", lambda row: _percentage(row["noise_fraction"])),
    ("blank", "left", lambda row: "yes" if row["blank"] else "no"),
]
