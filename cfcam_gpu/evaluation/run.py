"""Evaluate methods on a dataset: what a run does from its inputs to the page. Read this first.

samples -> plan -> parts (capture once, a map by each method, all metrics) -> all rows -> summary, plots, page
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from cfcam_gpu._utils.device import resolve_device
from cfcam_gpu.dataset.execution.local import LocalPartExplainer, Model, opened_explainer
from cfcam_gpu.dataset.execution.observer import Observer
from cfcam_gpu.dataset.run import RunSummary, carry_out, samples_of
from cfcam_gpu.dataset.sources.masks import check_masks, with_masks
from cfcam_gpu.dataset.sources.sample import Sample
from cfcam_gpu.dataset.store.fingerprint import about
from cfcam_gpu.dataset.store.locks import setup_lock
from cfcam_gpu.errors import InputError, ModelError
from cfcam_gpu.evaluation.drawing import shown
from cfcam_gpu.evaluation.evaluator import Evaluator
from cfcam_gpu.evaluation.gallery import choose
from cfcam_gpu.evaluation.options import EvaluationOptions, columns_of
from cfcam_gpu.evaluation.page import write_page
from cfcam_gpu.evaluation.plots import IMAGES, check_plots, write_plots
from cfcam_gpu.evaluation.store import EvaluationStore
from cfcam_gpu.evaluation.summary import summarise
from cfcam_gpu.images.preprocess import Preprocess
from cfcam_gpu.metrics.base import Metric

#: Columns that the pictures of some images need.
_PICTURED = ("sample_id", "uri", "status", "method", "target_name", "target_prob", "blank", "grid")


@dataclass
class EvaluationSummary:
    """What an evaluation did.

    Attributes:
        run: what the run did; `run.others_left` parts of other processes are not done.
        found: the content of summary.json (see `summary.summarise`); None while parts are missing.
        plots: the pictures written; page: the page; None while parts are missing.
    """

    run: RunSummary
    found: dict[str, Any] | None = None
    plots: Sequence[Path] = ()
    page: Path | None = None


def evaluate(
    inputs: Sequence[str] | Sequence[Sample],
    out: str | Path,
    model: Model = "efficientnet-lite0",
    options: EvaluationOptions | None = None,
    *,
    observer: Observer | None = None,
    **settings: Any,
) -> EvaluationSummary:
    """Measures methods on a dataset into the folder `out`. The same call resumes a run.

    Every sample is captured once and explained by every method; all metrics share these maps. A sample that
    cannot be read, decoded or explained by one of the methods has one row that says why, and counts for none
    of them. Parts are written whole or not at all; the process that finds all of them done merges them.

    Args:
        inputs, out, model, observer: as for `explain_dataset`.
        options: what to compare and how to run; settings: fields of `EvaluationOptions` that replace its.

    Raises:
        ConfigError: a setting out of range, an unknown method or metric, before anything is read, or a
            metric that was named and needs masks that no image has.
        InputError, StoreError, TooManyErrors, Interrupted, CFCAMError: as for `explain_dataset`.
    """
    options = replace(options or EvaluationOptions(), **settings)
    observer, device = observer or Observer(), resolve_device(options.device)
    samples = _with_masks(samples_of(inputs, Path(out)), options)
    metrics = options.measured(masked=any(sample.mask for sample in samples))
    store = EvaluationStore(Path(out), columns_of(metrics))
    make = partial(
        Evaluator, options=options, metrics=metrics, on_cost=partial(store.write_cost, options.rank)
    )
    with opened_explainer(model, options, device, make) as (evaluator, weights):
        content = about(evaluator, weights, options)
        content["fingerprint"] = _fingerprint(content["fingerprint"], options, metrics)
        run = carry_out(store, samples, LocalPartExplainer(evaluator, options), content, options, observer)
        preprocess, grid = evaluator.loaded.preprocess, evaluator.map_shape
    return _summed_up(store, run, options, observer, preprocess, grid)


def _with_masks(samples: list[Sample], options: EvaluationOptions) -> list[Sample]:
    check_masks(samples)
    if options.masks is None:
        return samples
    folder = Path(options.masks)
    found = with_masks(samples, folder)
    if not any(sample.mask for sample in found):
        raise InputError(
            f"the folder of masks {str(folder)!r} has none for any of the inputs; "
            f"the mask of {samples[0].sample_id!r} would be {samples[0].name}.png"
        )
    return found


def _fingerprint(
    run: dict[str, Any], options: EvaluationOptions, metrics: Sequence[Metric]
) -> dict[str, Any]:
    """A dataset run's, with all methods in place of the one."""
    kept = {name: value for name, value in run.items() if name not in ("config", "method", "overlays")}
    return {**kept, **options.fingerprint(metrics)}


def _summed_up(
    store: EvaluationStore,
    run: RunSummary,
    options: EvaluationOptions,
    observer: Observer,
    preprocess: Preprocess,
    grid: tuple[int, int],
) -> EvaluationSummary:
    """Merges the parts and writes the summary, plots and page, once every part is there."""
    with setup_lock(store.locks_folder):
        plan = store.read_plan()
        if set(range(plan.parts)) - store.finished_parts():
            return EvaluationSummary(run)
        store.merge(plan, grid)
        found = summarise(
            store.table(),
            store.columns,
            options.baseline,
            options.measuring.seed,
            options.resamples,
            options.level,
            methods=list(options.cams()),
            cost=store.cost(),
            options=options.measuring,
        )
        store.write_summary(found)
        store.remove_plots()
        plots: Sequence[Path] = ()
        if options.plots and _can_draw(observer):
            plots = write_plots(found, _pictured(store, found), store.out, preprocess.view)
        return EvaluationSummary(run, found, plots, write_page(store.out))


def _pictured(store: EvaluationStore, found: dict[str, Any]) -> pa.Table:
    """The rows, with their maps, of the few images that are shown; the maps of all might not fit in memory."""
    chosen = choose(store.table(("sample_id", "status", "method")), shown(found), IMAGES)
    return store.table(_PICTURED, chosen["sample_id"].unique().to_pylist())


def _can_draw(observer: Observer) -> bool:
    try:
        check_plots()
    except ModelError as error:
        observer.note(f"no plots are drawn: {error}")
        return False
    return True
