"""Evaluates methods on a dataset, from the inputs to the page. Read this first.

samples -> plan -> parts (capture once, a map by each method, all metrics) -> all rows -> summary, plots, page
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import nn

from cfcam_gpu._utils.device import resolve_device
from cfcam_gpu.dataset.execution.batch_explainer import BatchExplainer
from cfcam_gpu.dataset.execution.local import LocalPartExplainer, Model, opened_explainer
from cfcam_gpu.dataset.execution.observer import Observer
from cfcam_gpu.dataset.execution.parts import PartExplainer
from cfcam_gpu.dataset.execution.pool import make_pool
from cfcam_gpu.dataset.execution.ray_driver import ray_part_explainer
from cfcam_gpu.dataset.given import Given, as_given, with_settings
from cfcam_gpu.dataset.run import carry_out, samples_of
from cfcam_gpu.dataset.run_summary import RunSummary
from cfcam_gpu.dataset.sources.columns import pieces_of
from cfcam_gpu.dataset.sources.masks import check_masks, with_masks
from cfcam_gpu.dataset.sources.open_image import open_image
from cfcam_gpu.dataset.sources.sample import Sample
from cfcam_gpu.dataset.store.fingerprint import about
from cfcam_gpu.dataset.store.locks import setup_lock
from cfcam_gpu.dataset.store.mirror import Mirror
from cfcam_gpu.dataset.store.output import opened_output
from cfcam_gpu.errors import InputError, MissingPackageError
from cfcam_gpu.evaluation.drawing import drawn_methods
from cfcam_gpu.evaluation.evaluator import Evaluator
from cfcam_gpu.evaluation.gallery import choose_ids
from cfcam_gpu.evaluation.options import EvaluationOptions, columns_of
from cfcam_gpu.evaluation.page import write_page
from cfcam_gpu.evaluation.plots import IMAGES, check_plots, write_plots
from cfcam_gpu.evaluation.store import EvaluationStore
from cfcam_gpu.evaluation.summary import Summary, summarise
from cfcam_gpu.images.preprocess import Preprocess
from cfcam_gpu.metrics.base import Metric

#: Columns that the gallery of some images needs.
_GALLERY = ("sample_id", "uri", "status", "method", "target_name", "target_prob", "blank", "grid")


@dataclass
class EvaluationResult:
    """The outcome of a run of an evaluation.

    Attributes:
        run: counts and times of the run; `run.others_left` parts of other processes are not finished.
        summary: the content of summary.json (see `summarise`); None while parts are missing.
        plots: paths of the plots; `run.located` gives their URLs.
        page: path of the page; None while parts are missing.
    """

    run: RunSummary
    summary: Summary | None = None
    plots: Sequence[Path] = ()
    page: Path | None = None


def evaluate(
    inputs: Any,
    out: str | Path,
    model: Model | nn.Module = "efficientnet-lite0",
    options: EvaluationOptions | None = None,
    *,
    preprocess: Any = None,
    class_names: Sequence[str] | None = None,
    observer: Observer | None = None,
    **settings: Any,
) -> EvaluationResult:
    """Evaluates methods on a dataset and writes the results into the folder `out`. The same call resumes a run.

    Each sample is captured once and explained by every method, and all metrics share these heatmaps. A sample
    that cannot be read, decoded or explained by one of the methods has one row with the reason, and no method
    is measured on it. Parts are written whole or not at all. The process that finds all parts finished merges them
    and writes the summary, the plots and the page.

    Args:
        inputs, out, model, preprocess, class_names, observer: as for `explain_dataset`.
        options: what to compare and how to run.
        settings: fields of `EvaluationOptions` that replace those of `options`.

    Raises:
        ConfigError: before anything is read, a setting out of range, or an unknown method or metric; also a
            named metric that needs masks, where no image has one.
        InputError, StoreError, TooManyErrors, Interrupted, CFCAMError: as for `explain_dataset`.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from PIL import Image
        >>> from cfcam_gpu.images import Preprocess
        >>> from cfcam_gpu.models import LoadedModel
        >>> network = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 2)
        ... )
        >>> preprocess = Preprocess((8, 8), (0.5,) * 3, (0.5,) * 3)
        >>> model = LoadedModel(network, preprocess, ("cat", "dog"), "example", "random")
        >>> folder = Path(tempfile.mkdtemp())
        >>> Image.new("RGB", (20, 10), "red").save(folder / "a.png")
        >>> result = evaluate(
        ...     [str(folder)], folder / "out", model, methods=["gradcam", "layercam"], metrics=["drop"],
        ...     device="cpu", workers=0, plots=False,
        ... )
        >>> result.summary["images"], list(result.summary["methods"]), result.page.name
        (1, ['gradcam', 'layercam'], 'report.html')
    """
    options = with_settings(options or EvaluationOptions(), settings)
    observer, device = observer or Observer(), resolve_device(options.device)
    given = as_given(inputs, model, options, preprocess, class_names)
    options = given.options
    with opened_output(out, options, observer.note) as (folder, mirror):
        return _evaluate(given, (folder, mirror), device, observer)


def _evaluate(
    given: Given[EvaluationOptions], output: tuple[Path, Mirror], device: torch.device, observer: Observer
) -> EvaluationResult:
    """Evaluates into `output`: the folder, and what its finished files are told to."""
    options, (folder, mirror) = given.options, output
    samples = samples_of(given.inputs, mirror.name or folder, options.path_column)
    samples = _masked_samples(samples, options)
    metrics = options.metrics_to_measure(masked=_are_masked(samples))
    store = EvaluationStore(folder, columns_of(metrics), mirror)
    make = partial(
        Evaluator, options=options, metrics=metrics, on_cost=partial(store.write_cost, options.rank)
    )
    opened: AbstractContextManager[tuple[PartExplainer, dict[str, Any]]]
    if options.distributed:
        opened = ray_part_explainer(given.model, options, observer, make)
    else:
        opened = _part_explainer(given.model, options, device, make, len(samples))
    with opened as (part_explainer, content):
        preprocess, map_shape = Preprocess(**content["preprocess"]), part_explainer.map_shape
        content["fingerprint"] = _fingerprint(content["fingerprint"], options, metrics)
        run = carry_out(store, samples, part_explainer, content, options, observer)
    return _finish(store, run, options, observer, preprocess, map_shape)


@contextmanager
def _part_explainer(
    model: Model,
    options: EvaluationOptions,
    device: torch.device,
    make: Callable[..., BatchExplainer],
    samples: int,
) -> Iterator[tuple[PartExplainer, dict[str, Any]]]:
    """What measures the parts in this process, and the content of evaluation.json."""
    with closing(make_pool(options.workers, options.sample_timeout)) as pool:
        pool.start(samples)  # while the model is loaded
        with opened_explainer(model, options, device, make) as (evaluator, weights):
            yield LocalPartExplainer(evaluator, options, pool), about(evaluator, weights, options)


def _masked_samples(samples: Collection[Sample], options: EvaluationOptions) -> Collection[Sample]:
    """The samples with the masks of the folder `options.masks`, where one is given. Raises InputError."""
    check_masks(samples)
    if options.masks is None:
        return samples
    folder = Path(options.masks)
    masked = with_masks(samples, folder)
    if not _are_masked(masked):
        first = next(iter(samples))
        raise InputError(
            f"the folder of masks {str(folder)!r} has none for any of the inputs; "
            f"the mask of {first.sample_id!r} would be {first.name}.png"
        )
    return masked


def _are_masked(samples: Collection[Sample]) -> bool:
    """Whether any sample has a mask."""
    return any(any(piece["mask"]) for piece in pieces_of(samples, "mask"))


def _fingerprint(
    run: dict[str, Any], options: EvaluationOptions, metrics: Sequence[Metric]
) -> dict[str, Any]:
    """The fingerprint of a dataset run, with all methods instead of its one method."""
    kept = {name: value for name, value in run.items() if name not in ("config", "method", "overlays")}
    return {**kept, **options.fingerprint(metrics)}


def _finish(
    store: EvaluationStore,
    run: RunSummary,
    options: EvaluationOptions,
    observer: Observer,
    preprocess: Preprocess,
    map_shape: tuple[int, int],
) -> EvaluationResult:
    """Merges the parts and writes the summary, plots and page, if every part is finished."""
    with setup_lock(store.locks_folder):
        plan = store.read_plan()
        if set(range(plan.parts)) - store.finished_parts():
            return EvaluationResult(run)
        store.merge_parts(plan, map_shape)
        summary = summarise(
            store.read_tables(),
            store.columns,
            options.baseline,
            options.measuring.seed,
            options.resamples,
            options.level,
            methods=list(options.methods_by_label()),
            cost=store.read_cost(),
            options=options.measuring,
        )
        store.write_summary(summary)
        store.remove_plots()
        plots: Sequence[Path] = ()
        if options.plots and _can_draw(observer):
            open_original = partial(
                open_image, max_pixels=options.max_pixels, value_range=options.value_range
            )
            rows = _gallery_rows(store, summary)
            plots = write_plots(summary, rows, store.out, preprocess.shown, open_original=open_original)
        return EvaluationResult(run, summary, plots, write_page(store.out))


def _gallery_rows(store: EvaluationStore, summary: Summary) -> pa.Table:
    """The rows, with their maps, of the images in the gallery; the maps of all images might not fit in memory."""
    read = partial(store.read_tables, ("sample_id", "status", "method"))
    return store.read_table(_GALLERY, choose_ids(read, drawn_methods(summary), IMAGES))


def _can_draw(observer: Observer) -> bool:
    """Whether plots can be drawn; tells the observer if not."""
    try:
        check_plots()
    except MissingPackageError as error:
        observer.note(f"no plots are drawn: {error}")
        return False
    return True
