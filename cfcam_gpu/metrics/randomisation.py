"""Whether the heatmap shows what the model has learnt: it is compared with those of a randomised model."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from cfcam_gpu._utils.device import dtype_of
from cfcam_gpu._utils.precision import use_gradients
from cfcam_gpu._utils.undo import Undo
from cfcam_gpu.capture.hooks import add_hook
from cfcam_gpu.capture.model_state import make_explainable
from cfcam_gpu.errors import ModelError
from cfcam_gpu.metrics.base import Case, Column
from cfcam_gpu.metrics.options import MetricOptions
from cfcam_gpu.metrics.similarity import correlation, ssim


def randomisation(case: Case, options: MetricOptions) -> dict[str, Tensor]:
    """Similarity of the heatmap to the clean one while the model's layers become random, from the head down.

    The layers are divided into at most `options.stages` stages of equally many layers. A layer stays random from its
    stage on (see `cascade`), so after the last stage the whole model is random. A map that stays similar does not show
    what the model has learnt.

    NaN for blank clean maps. A random model's blank map counts as zeros in SSIM and has no correlation (NaN).

    Returns:
        randomisation_ssim, randomisation_correlation: (B,) float32 in [-1,1], after the last stage.
        randomisation_ssim_curve, randomisation_correlation_curve: (B,S) float32, after each stage.

    Raises:
        ConfigError: the case has no `maps`.
        ModelError: as `cascade`.

    Source: Adebayo et al. 2018, "Sanity checks for saliency maps" (cascading randomisation).

    Example:
        >>> heatmaps = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> class Maps:  # of a method that does not depend on the weights
        ...     module = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
        ...     def of_model(self, model):
        ...         return heatmaps
        >>> case = Case.of_heatmaps(
        ...     Maps.module, torch.ones(1, 3, 16, 16), torch.tensor([0]), heatmaps, maps=Maps()
        ... )
        >>> randomisation(case, MetricOptions())["randomisation_correlation"].round(decimals=3)
        tensor([1.])
    """
    similarities, correlations = [], []
    # The order of the layers comes from a grey image, so that it does not depend on the batch.
    grey = torch.full_like(case.images[:1], 0.5)
    for model in cascade(case.map_maker.module, grey, options.stages, options.seed):
        heatmaps = case.map_maker.of_model(model)
        similarities.append(ssim(heatmaps, case.heatmaps))
        correlations.append(correlation(heatmaps, case.heatmaps))
    columns: dict[str, Tensor] = {}
    for name, values in (("ssim", similarities), ("correlation", correlations)):
        curve = torch.stack(values, dim=1).masked_fill(case.blank[:, None], torch.nan)
        columns |= {f"randomisation_{name}": curve[:, -1], f"randomisation_{name}_curve": curve}
    return columns


def cascade(module: nn.Module, images: Tensor, stages: int, seed: int) -> Iterator[nn.Module]:
    """A copy of the model whose layers become random stage by stage, from the head down; the model stays as it is.

    A layer is a submodule with parameters of its own. The layers are taken in the reverse of the order in which they
    last run on `images` (B,3,H,W). The parameters of a random layer come from its `reset_parameters`; without such a
    method they are normal numbers of the same root mean square. The running statistics of a BatchNorm restart with its
    parameters (mean 0, variance 1): the trained ones do not fit random weights, and statistics of the images at hand
    would make an image's map depend on its batch.

    Yields:
        The same copy at each of at most `stages` stages: use it before the next one is taken.

    Raises:
        ModelError: the model cannot be copied, or has no parameters.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> for random in cascade(model, torch.ones(1, 3, 1, 1), stages=2, seed=0):
        ...     print([torch.equal(random[i].weight, model[i].weight) for i in (1, 3)])
        [True, False]
        [False, False]
    """
    layers = layers_from_the_head(module, images)
    if not layers:
        raise ModelError("the model has no parameters to make random; leave out the metric 'randomisation'")
    model, random = _copy(module), _copy(module).cpu()
    _make_random(random, seed)
    stages = min(stages, len(layers))
    bounds = [len(layers) * stage // stages for stage in range(stages + 1)]
    for start, end in pairwise(bounds):
        for name in layers[start:end]:
            _copy_values(model.get_submodule(name), random.get_submodule(name))
        yield model


def layers_from_the_head(module: nn.Module, images: Tensor) -> list[str]:
    """Names of the submodules with parameters of their own, in the reverse of the order in which they last ran.

    A submodule that is never called itself stands where the nearest called module around it stands.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> layers_from_the_head(model, torch.ones(1, 3, 1, 1))
        ['3', '1']
    """
    names = {submodule: name for name, submodule in module.named_modules()}
    calls: list[str] = []
    dtype = dtype_of(module, images.dtype)
    undo = Undo()
    try:
        make_explainable(module, undo)
        use_gradients(undo, enabled=False)
        for submodule in names:
            add_hook(submodule._forward_pre_hooks, lambda called, _args: calls.append(names[called]), undo)
        module(images.to(dtype))
    finally:
        undo.run()
    last = {name: position for position, name in enumerate(calls)}

    def position(name: str) -> int:
        while name not in last:
            name = name.rpartition(".")[0]
        return last[name]

    owners = [name for submodule, name in names.items() if [*submodule.parameters(recurse=False)]]
    return sorted(reversed(owners), key=position, reverse=True)


def _copy(module: nn.Module) -> nn.Module:
    try:
        with torch.inference_mode(mode=False):
            return copy.deepcopy(module)
    except Exception as error:
        raise ModelError(
            f"the model cannot be copied ({error}), so its layers cannot be made random; "
            "leave out the metric 'randomisation'"
        ) from error


def _make_random(module: nn.Module, seed: int) -> None:
    """New parameters for a module on the CPU; PyTorch's own generators stay as they were."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        for layer in module.modules():
            own = [values for values in layer.parameters(recurse=False) if values.is_floating_point()]
            reset: Any = getattr(layer, "reset_parameters", None)
            if own and callable(reset):
                reset()
            else:
                for values in own:
                    values.copy_(torch.randn(values.shape) * values.float().square().mean().sqrt())


def _copy_values(layer: nn.Module, random: nn.Module) -> None:
    """Copies a layer's own parameters and buffers (BatchNorm's statistics) from its random counterpart."""
    ours = [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]
    theirs = [*random.parameters(recurse=False), *random.buffers(recurse=False)]
    with torch.no_grad():
        for old, new in zip(ours, theirs, strict=True):
            old.copy_(new)


_RANDOM = "of the maps of the trained model and of one whose layers are random"
COLUMNS = (
    Column("randomisation_ssim", "lower", f"SSIM (-1 to 1) {_RANDOM}."),
    Column("randomisation_correlation", "lower", f"Correlation (-1 to 1) {_RANDOM}."),
    Column("randomisation_ssim_curve", "lower", f"SSIM (-1 to 1) {_RANDOM} down to each stage.", curve=True),
    Column(
        "randomisation_correlation_curve",
        "lower",
        f"Correlation (-1 to 1) {_RANDOM} down to each stage.",
        curve=True,
    ),
)
SOURCE = "Adebayo et al. 2018, arXiv 1810.03292"
