"""Explains parts in this process: the model, prepared and warmed up, and its worker processes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from cfcam_gpu._utils.checks import Check
from cfcam_gpu._utils.device import model_errors, resolve_device
from cfcam_gpu.dataset.execution.batch_explainer import BatchExplainer
from cfcam_gpu.dataset.execution.observer import Observer
from cfcam_gpu.dataset.execution.pipeline import Pictures, Pipeline, Work
from cfcam_gpu.dataset.execution.pool import Pool, make_pool
from cfcam_gpu.dataset.options import RunOptions
from cfcam_gpu.dataset.store.fingerprint import about, weights_hash
from cfcam_gpu.dataset.store.schema import Row
from cfcam_gpu.explainer import CFCAM
from cfcam_gpu.methods import find_method
from cfcam_gpu.models import LoadedModel, load_model
from cfcam_gpu.models.prepare import prepared

#: A specification, what `load_model` gives, or a function that gives it.
Model = str | LoadedModel | Callable[[], LoadedModel]

#: Numbers of parts with all their rows, as these get done.
Finished = Generator[tuple[int, list[Row]], None, None]


@dataclass(frozen=True)
class Follow:
    """Who is told: `row` of every new row; `check` often, which may raise to end the run."""

    row: Callable[[Row], None]
    check: Check


class Parts(Protocol):
    """Explains parts; `layer`, `engine` and `device` say how, `grid` is the maps' (h, w)."""

    @property
    def grid(self) -> tuple[int, int]: ...
    @property
    def layer(self) -> str: ...
    @property
    def engine(self) -> str: ...
    @property
    def device(self) -> str: ...

    def __call__(
        self, works: Iterable[Work], new: int, pictures: Pictures | None, follow: Follow
    ) -> Finished:
        """Explains the `new` samples of the works that have no row yet, and yields whole parts."""


@dataclass(frozen=True)
class LocalParts:
    """Explains parts one after the other in this process."""

    explainer: BatchExplainer
    options: RunOptions

    @property
    def grid(self) -> tuple[int, int]:
        return self.explainer.grid

    @property
    def layer(self) -> str:
        return str(self.explainer.cam.layer_name)

    @property
    def engine(self) -> str:
        return self.explainer.cam.engine_name

    @property
    def device(self) -> str:
        return str(self.explainer.device)

    def __call__(
        self, works: Iterable[Work], new: int, pictures: Pictures | None, follow: Follow
    ) -> Finished:
        pool = make_pool(min(self.options.workers, new), self.options.sample_timeout)
        try:
            pipeline = make_pipeline(self.explainer, pool, self.options, pictures, follow.check)
            yield from pipeline(works, follow.row)
        finally:
            pool.close()


def local_parts(
    model: Model, options: RunOptions, observer: Observer
) -> AbstractContextManager[tuple[LocalParts, dict[str, Any]]]:
    """What explains parts in this process, and the content of run.json.

    Raises:
        ConfigError, BackendError: a device that does not exist or is not there, at once.
        CFCAMError: model, layer or memory, on entering.
    """
    return _local_parts(model, options, resolve_device(options.device))


@contextmanager
def _local_parts(
    model: Model, options: RunOptions, device: torch.device
) -> Iterator[tuple[LocalParts, dict[str, Any]]]:
    with opened(model, options, device) as (explainer, weights):
        yield LocalParts(explainer, options), about(explainer, weights, options)


def make_pipeline(
    explainer: BatchExplainer,
    pool: Pool,
    options: RunOptions,
    pictures: Pictures | None,
    check: Check,
) -> Pipeline:
    """The pipeline as every run has it."""
    ahead = max(options.batch_size, 4 * options.workers)
    return Pipeline(explainer, pool, options.batch_size, ahead, pictures, check)


@contextmanager
def opened(
    model: Model,
    options: RunOptions,
    device: torch.device,
    make: Callable[..., BatchExplainer] = BatchExplainer,
) -> Iterator[tuple[BatchExplainer, str]]:
    """An explainer that has run once, and its weights' hash; the model goes back where it was."""
    loaded = load_model(model) if isinstance(model, str) else model() if callable(model) else model
    target = None if options.target is None else loaded.class_index(str(options.target))
    weights = weights_hash(loaded.model)
    home = next((parameter.device for parameter in loaded.model.parameters()), torch.device("cpu"))
    example = torch.zeros(1, 3, *loaded.preprocess.size, device=home)
    try:
        with model_errors(example.shape):
            choices = {
                name: getattr(options, name) for name in ("precision", "channels_last", "fold_batchnorm")
            }
            model = prepared(loaded.model, example, **choices).to(device)
        ready = replace(loaded, model=model)
        # An evaluation captures with one method and gives the finer layer to others.
        finer = options.finer_layer if find_method(options.method).needs_finer else None
        with CFCAM(
            model,
            options.layer,
            options.config,
            options.engine,
            on_invalid="flag",
            method=options.method,
            finer_layer=finer,
        ) as cam:
            explainer = make(ready, cam, device, options.batch_size, target)
            explainer.warm_up()
            yield explainer, weights
    finally:
        loaded.model.to(home)
