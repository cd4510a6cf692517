"""Explains the parts of a run in this process, with worker processes that decode images and write overlays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from cfcam_gpu._utils.checks import Check
from cfcam_gpu._utils.device import device_of, model_errors, on_device, resolve_device
from cfcam_gpu.capture.selectors import Above, TopK
from cfcam_gpu.dataset.execution.batch_explainer import BatchExplainer, ByLabel, RunTarget
from cfcam_gpu.dataset.execution.gpu_decoder import GpuDecoder, check_decoder
from cfcam_gpu.dataset.execution.parts import FinishedParts, OverlayFiles, PendingPart
from cfcam_gpu.dataset.execution.pipeline import Pipeline
from cfcam_gpu.dataset.execution.pool import Pool, make_pool
from cfcam_gpu.dataset.options import FEW_SAMPLES, RunOptions, default_workers
from cfcam_gpu.dataset.store.fingerprint import about, weights_hash
from cfcam_gpu.dataset.store.journal import Journals
from cfcam_gpu.dataset.store.schema import Row
from cfcam_gpu.errors import ConfigError, TargetError
from cfcam_gpu.explainer import CFCAM
from cfcam_gpu.images.decoders import DECODERS
from cfcam_gpu.methods import find_method
from cfcam_gpu.models import LoadedModel, load_model
from cfcam_gpu.models.prepare import prepared

#: A model specification, the result of `load_model`, or a function that returns one.
Model = str | LoadedModel | Callable[[], LoadedModel]


@dataclass(frozen=True)
class LocalPartExplainer:
    """Explains parts one after the other in this process (see `parts.PartExplainer`).

    Attributes:
        pool: decodes the images and writes the overlays; whoever made it closes it.
    """

    explainer: BatchExplainer
    options: RunOptions
    pool: Pool

    @property
    def map_shape(self) -> tuple[int, int]:
        return self.explainer.map_shape

    @property
    def layer(self) -> str:
        return str(self.explainer.cam.layer_name)

    @property
    def engine(self) -> str:
        return self.explainer.cam.engine_name

    @property
    def device(self) -> str:
        return str(self.explainer.device)

    @property
    def steps(self) -> int:
        return self.explainer.steps

    def explain(
        self,
        parts: Iterable[PendingPart],
        overlays: OverlayFiles | None,
        journals: Journals,
        on_row: Callable[[Row], None],
        check: Check,
    ) -> FinishedParts:
        pipeline = make_pipeline(self.explainer, self.pool, self.options, overlays, check)
        yield from pipeline(parts, on_row, journals)


def local_part_explainer(
    model: Model, options: RunOptions
) -> Callable[[int], AbstractContextManager[tuple[LocalPartExplainer, dict[str, Any]]]]:
    """A function of the number of samples, which opens an explainer of parts in this process.

    Entering what it returns gives the explainer and the content of run.json.

    Raises:
        ConfigError, BackendError: at once, if there is no such device.
        CFCAMError: on entering, if the model, the layer or the target does not work.
    """
    return partial(_local_part_explainer, model, options, resolve_device(options.device))


@contextmanager
def _local_part_explainer(
    model: Model, options: RunOptions, device: torch.device, samples: int
) -> Iterator[tuple[LocalPartExplainer, dict[str, Any]]]:
    if options.engine == "auto" and device.type == "cpu" and samples <= FEW_SAMPLES:
        options = replace(options, engine="torch")
    with closing(make_pool(options.workers, options.sample_timeout, samples)) as pool:
        pool.start(samples)  # while the model is loaded
        with opened_explainer(model, options, device) as (explainer, weights):
            yield LocalPartExplainer(explainer, options, pool), about(explainer, weights, options)


def make_pipeline(
    explainer: BatchExplainer,
    pool: Pool,
    options: RunOptions,
    overlays: OverlayFiles | None,
    check: Check,
) -> Pipeline:
    """The pipeline that the options ask for."""
    ahead = max(options.batch_size, 4 * (default_workers() if options.workers is None else options.workers))
    gpu_decoder = None
    if DECODERS[options.decode].needs_cuda:
        gpu_decoder = GpuDecoder(explainer.device, explainer.loaded.preprocess)
    return Pipeline(
        explainer,
        pool,
        options.batch_size,
        ahead,
        overlays,
        check,
        options.decode,
        gpu_decoder,
        options.read_options,
    )


@contextmanager
def opened_explainer(
    model: Model,
    options: RunOptions,
    device: torch.device,
    make: Callable[..., BatchExplainer] = BatchExplainer,
) -> Iterator[tuple[BatchExplainer, str]]:
    """A warmed-up explainer, and the hash of the model's weights. On leaving, the model returns to its device.

    Args:
        make: makes the explainer, from the arguments of `BatchExplainer`.

    Raises:
        CFCAMError: the model cannot be loaded, or it, the layer or the target does not work.
    """
    check_decoder(options.decode, device)
    loaded = load_model(model) if isinstance(model, str) else model() if callable(model) else model
    target = run_target(loaded, options)
    weights = weights_hash(loaded.model)
    home = device_of(loaded.model)
    try:
        with on_device(device):
            ready = replace(loaded, model=_prepared(loaded, options, home, device))
            with _cam(ready, options) as cam:
                explainer = make(ready, cam, device, options.batch_size, target)
                explainer.warm_up()
                yield explainer, weights
    finally:
        loaded.model.to(home)


def run_target(loaded: LoadedModel, options: RunOptions) -> RunTarget:
    """What the options say is to be explained of a sample that names no class.

    The words predicted and expected are what they say (see `RunOptions.target`). A text that is no class is taken
    apart at its commas.

    Raises:
        TargetError: no such class.
        ConfigError: no class in a list.
    """
    if options.top_k is not None:
        return TopK(options.top_k)
    if options.multi_label is not None:
        return Above(options.multi_label)
    if options.target is None or isinstance(options.target, int):
        return None if options.target is None else loaded.class_index(str(options.target))
    words = options.target.split(",") if isinstance(options.target, str) else options.target
    by_label = _by_label([str(word).strip() for word in words])
    if by_label is not None:
        return by_label
    if isinstance(options.target, str):
        try:
            return loaded.class_index(options.target)
        except TargetError:
            if "," not in options.target:
                raise
    indices = tuple(loaded.class_index(str(name)) for name in words)
    if not indices or len(set(indices)) < len(indices):
        raise ConfigError(f"target must name different classes, at least one, got {options.target!r}")
    return indices


def _by_label(words: list[str]) -> ByLabel | None:
    """What these words ask for; None: they are classes.

    Raises:
        ConfigError: one of the words predicted and expected beside a class.

    Example:
        >>> _by_label(["expected", "predicted"]), _by_label(["cat"])
        (<ByLabel.BOTH: 'predicted,expected'>, None)
    """
    special = {"predicted", "expected"} & set(words)
    if not special:
        return None
    if special == {"expected"} == set(words):
        return ByLabel.EXPECTED
    if len(special) == len(words) == 2:
        return ByLabel.BOTH
    raise ConfigError(
        f"target may be predicted, expected, both, or classes, got {','.join(words)!r}; name classes alone"
    )


def _prepared(
    loaded: LoadedModel, options: RunOptions, home: torch.device, device: torch.device
) -> torch.nn.Module:
    example = torch.zeros(1, loaded.preprocess.channels, *loaded.preprocess.size, device=home)
    with model_errors(example.shape):
        model = prepared(
            loaded.model,
            example,
            precision=options.precision,
            channels_last=options.channels_last,
            fold_batchnorm=options.fold_batchnorm,
        )
        return model.to(device)


def _cam(loaded: LoadedModel, options: RunOptions) -> CFCAM:
    # An evaluation captures with one method; its finer layer is for other methods.
    finer_layer = options.finer_layer if find_method(options.method).needs_finer else None
    return CFCAM(
        loaded.model,
        options.layer,
        options.config,
        options.engine,
        on_invalid="flag",
        method=options.method,
        finer_layer=finer_layer,
        layout=options.layout,
        compile=options.compile,
        activation=options.model_activation,
        output=options.output,
        scales=options.scales,
        flip=options.flip,
        eigen_smooth=options.eigen_smooth,
        aug_smooth=options.aug_smooth,
    )
