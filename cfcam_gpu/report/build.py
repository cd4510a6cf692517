"""Writes the report of a run: reads its results, chooses the samples to show, writes the page and its files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cfcam_gpu.dataset.sources.sample import clean_text, split_uri
from cfcam_gpu.dataset.store.atomic_files import os_reason, remove_page_folders, write_atomically
from cfcam_gpu.dataset.store.output import publish
from cfcam_gpu.dataset.store.results import Results, open_results
from cfcam_gpu.dataset.store.schema import Row
from cfcam_gpu.dataset.store.store import REPORT, REPORT_TITLE
from cfcam_gpu.errors import ConfigError, InputError
from cfcam_gpu.report.files import Files, Folder, Inline
from cfcam_gpu.report.page import render
from cfcam_gpu.report.payload import make_index, to_json
from cfcam_gpu.report.pictures import make_pictures
from cfcam_gpu.report.sampling import Positions, choose_rows, take_rows
from cfcam_gpu.report.survey import BLANK, ERROR, OK, Survey, survey_run

#: Samples in one block of data: the page loads a block at a time.
_BLOCK = 100

#: At most so many classes, the most frequent ones, get a mean heatmap.
_MOST_CLASSES = 1000

#: Up to `_FEW` samples the longer side of a picture has `_LARGE` pixels, above that `_SMALL`.
_FEW, _LARGE, _SMALL = 100, 640, 400


def write_report(
    out: str | Path,
    destination: Path | None = None,
    *,
    limit: int = 5000,
    self_contained: int = 500,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes a static page about the results of a run, which opens from disk; returns the page's path.

    Args:
        out: the output folder of a run, or its URL (see `open_results`). The run may be unfinished; its finished
            parts are shown.
        destination: the page, on a disk; None: `out/report.html`, which of a URL is written on this machine and
            uploaded. An older report of that name is replaced.
        limit: the page shows at most so many samples; of a larger run a stratified choice.
        self_contained: up to so many samples, data and pictures are inside the page; those of more samples
            lie beside it in the folder `NAME_files`.
        seed: seed of that choice.
        on_progress: called with (samples done, samples in all) while pictures are made.

    Raises:
        ConfigError: a limit below 1.
        InputError: the run has no finished part, or the report cannot be written.
        StoreError: the folder holds no results, or they cannot be read.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from cfcam_gpu.dataset.sources.sample import Sample
        >>> from cfcam_gpu.dataset.store.store import Store
        >>> store = Store(Path(tempfile.mkdtemp()) / "out")
        >>> store.write_run({"grid": [1, 2], "size": [2, 4]})
        >>> _ = store.write_plan([Sample("a", "/a.png")], part_size=1)
        >>> row = {"sample_id": "a", "uri": "/a.png", "status": "ok", "grid": np.float32([[0, 3]])}
        >>> store.write_part(0, [row], map_shape=(1, 2))
        >>> write_report(store.out).name
        'report.html'
    """
    if limit < 1:
        raise ConfigError(f"a report needs at least 1 sample, got a limit of {limit}")
    results = open_results(out)
    page = results.store.out / REPORT if destination is None else Path(destination)
    if page.is_dir():
        raise InputError(f"the report's file {str(page)!r} is a folder; give the name of an HTML file")
    if not results.parts:
        raise InputError(
            f"{results.store.name!r} holds no finished results yet; let cfcam explain finish its first part"
        )
    survey = survey_run(results)
    chosen = choose_rows(survey.kinds, survey.preds, limit, seed)
    rows = list(take_rows(results, chosen))
    notes = list(_notes(results, survey, chosen, seed))
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        _write(page, results, survey, rows, notes, self_contained, on_progress)
    except OSError as error:
        raise InputError(f"cannot write the report {str(page)!r}: {os_reason(error)}") from error
    if destination is None:
        publish(out, page)
    return page


def _write(
    page: Path,
    results: Results,
    survey: Survey,
    rows: list[Row],
    notes: list[str],
    self_contained: int,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    index = make_index(survey, results.run, rows, _MOST_CLASSES)
    version = hashlib.sha256(to_json(index).encode()).hexdigest()[:12]
    files: Files = Inline() if len(rows) <= self_contained else Folder(page, version)
    value_range = results.run.get("fingerprint", {}).get("value_range")
    side = _LARGE if len(rows) <= _FEW else _SMALL
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        files.add(block, list(make_pictures(block, side, value_range)))
        if on_progress:
            on_progress(start + len(block), len(rows))
    index |= {"block": _BLOCK, "sources": files.sources}
    title = f"{REPORT_TITLE}: {results.store.out.resolve().name}"
    text = render(title, results.run, survey, notes, to_json(index), files, data_name(rows))
    write_atomically(page, text.encode())
    remove_page_folders(page, files.folder)


def data_name(rows: Sequence[Row]) -> str | None:
    """The name of the folder, shard or data set that all images lie in, without where it is; None: there is none.

    Example:
        >>> data_name([{"uri": "/home/me/train/cat/1.jpg"}, {"uri": "/home/me/train/dog/2.jpg"}])
        'train'
    """
    folders = set()
    for row in rows:
        scheme, parts = split_uri(row["uri"])
        folders.add(os.path.dirname(parts[0]) if scheme in ("file", "url") else parts[0])
    try:
        return clean_text(os.path.basename(os.path.commonpath(folders))) or None
    except ValueError:  # relative and absolute paths, or two drives
        return None


def _notes(results: Results, survey: Survey, chosen: Positions, seed: int) -> Iterator[str]:
    """Sentences about what the page does not show."""
    planned = len(results.plan)
    if planned > survey.samples:
        yield f"The run is not finished: {survey.samples:,} of {planned:,} samples are done so far."
    if len(chosen) < len(survey):
        rows = (
            "samples" if survey.samples == len(survey) else "rows, one for each explained class of a sample"
        )
        yield (
            f"This page shows {len(chosen):,} of {len(survey):,} {rows}: {_shares(survey, chosen)}; drawn by "
            f"predicted class and status, errors and blank maps first (seed {seed}). "
            "The figures above, the class means and the shared colour scale are of the whole run."
        )
    verdicts = survey.verdicts
    if verdicts.unmatched:
        yield (
            f"{verdicts.judged:,} of {verdicts.labelled:,} predictions with a label can be judged; the labels of "
            "the others match no class of the model, so they count neither as correct nor as wrong."
        )
    if len(survey.classes) > _MOST_CLASSES:
        yield f"Mean heatmaps are of the {_MOST_CLASSES:,} most frequent of {len(survey.classes):,} classes."


def _shares(survey: Survey, chosen: Positions) -> str:
    names = {ERROR: "errors", BLANK: "blank maps", OK: "other explained samples"}
    shown = survey.kinds[chosen]
    return ", ".join(
        f"{(shown == kind).sum():,} of {survey.count(kind):,} {name}"
        for kind, name in names.items()
        if survey.count(kind)
    )
