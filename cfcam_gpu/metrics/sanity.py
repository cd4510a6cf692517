"""Whether the heatmap shows the model at all: against random weights, and against plain edges."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from kornia.color import rgb_to_grayscale
from kornia.filters import spatial_gradient
from torch import Tensor, nn

from cfcam_gpu.capture.model_state import explainable
from cfcam_gpu.errors import ModelError
from cfcam_gpu.metrics.base import Case, Column, Metric
from cfcam_gpu.metrics.options import MetricOptions
from cfcam_gpu.metrics.similarity import correlation, is_constant, ssim

#: The edge map is compared at 1/1, 1/2, … 1/32 of the image's resolution.
EDGE_SCALES = (1, 2, 4, 8, 16, 32)
#: Fewest cells along a side of the edge map at such a scale.
EDGE_CELLS = 4
#: Edges, in grey values of [0,1] a pixel, weaker than half of what the smallest step of an 8-bit image makes.
NO_EDGE = 0.25 / 255


def randomisation(case: Case, options: MetricOptions) -> dict[str, Tensor]:
    """Similarity of the map to the clean one while the model's layers become random, from the head down.

    The layers are divided into at most `options.stages` stages of equally many layers, and stay random from
    their stage on (`cascade`), so the last stage is a wholly random model. A map that stays similar does not
    show what the model has learnt.

    NaN for blank clean maps; a random model's blank map counts as zeros in SSIM and has no correlation (NaN).

    Returns:
        randomisation_ssim, randomisation_correlation: (B,) float32 after the last stage.
        randomisation_ssim_curve, randomisation_correlation_curve: (B,S) float32, after each stage.

    Source: Adebayo et al. 2018, "Sanity checks for saliency maps" (cascading randomisation).
    """
    similarities, correlations = [], []
    # A grey image finds the layers' order, lest it depend on the batch.
    grey = torch.full_like(case.images[:1], 0.5)
    for model in cascade(case.maps.module, grey, options.stages, options.seed):
        maps = case.maps.of_model(model)
        similarities.append(ssim(maps, case.heatmaps))
        correlations.append(correlation(maps, case.heatmaps))
    columns: dict[str, Tensor] = {}
    for name, values in (("ssim", similarities), ("correlation", correlations)):
        curve = torch.stack(values, dim=1).masked_fill(case.blank[:, None], torch.nan)
        columns |= {f"randomisation_{name}": curve[:, -1], f"randomisation_{name}_curve": curve}
    return columns


def cascade(module: nn.Module, images: Tensor, stages: int, seed: int) -> Iterator[nn.Module]:
    """A copy of the model with more and more random layers, from the head down; the model itself is not touched.

    A layer is a submodule with parameters of its own, and the layers' order is that in which they last run on
    `images` (B,3,H,W). A random layer's parameters are what its `reset_parameters` makes of them; where it has
    none, normal numbers of the same root mean square. BatchNorm's running statistics start anew with its
    parameters (mean 0, variance 1): the trained ones do not fit random weights, and those of the images at hand
    would make an image's map depend on its batch.

    Yields:
        The same copy at each of at most `stages` stages: use it before asking for the next.

    Raises:
        ModelError: the model cannot be copied, or has no parameters.
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
            _take_over(model.get_submodule(name), random.get_submodule(name))
        yield model


def layers_from_the_head(module: nn.Module, images: Tensor) -> list[str]:
    """Names of the submodules with parameters of their own, in the reverse of the order in which they last ran.

    One that is not called itself stands with the nearest module around it that is.
    """
    names = {submodule: name for name, submodule in module.named_modules()}
    calls: list[str] = []
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), images.dtype)
    with contextlib.ExitStack() as stack:
        for submodule in names:
            handle = submodule.register_forward_pre_hook(lambda called, _args: calls.append(names[called]))
            stack.callback(handle.remove)
        with explainable(module), torch.no_grad():
            module(images.to(dtype))
    last = {name: position for position, name in enumerate(calls)}

    def position(name: str) -> int:
        while name not in last:
            name = name.rpartition(".")[0]
        return last[name]

    owners = [name for submodule, name in names.items() if [*submodule.parameters(recurse=False)]]
    return sorted(reversed(owners), key=position, reverse=True)


def _copy(module: nn.Module) -> nn.Module:
    try:
        with torch.inference_mode(False):
            return copy.deepcopy(module)
    except Exception as error:
        raise ModelError(
            f"the model cannot be copied ({error}), which making it random needs; "
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


def _take_over(layer: nn.Module, random: nn.Module) -> None:
    """Copies a layer's own parameters and buffers (BatchNorm's statistics) from its random counterpart."""
    ours = [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]
    theirs = [*random.parameters(recurse=False), *random.buffers(recurse=False)]
    with torch.no_grad():
        for old, new in zip(ours, theirs, strict=True):
            old.copy_(new)


def edges(case: Case, options: MetricOptions) -> dict[str, Tensor]:
    """Similarity of the map to the image's edges, which need no model: high values ask for a closer look.

    The edge map is the magnitude of the grey image's Sobel gradient. A heatmap comes from a coarser layer, so
    the edges are also averaged over 2×2, 4×4, … 32×32 pixels, brought back to the image's size bilinearly and
    divided by their maximum, and the scale that resembles the heatmap most counts, whatever the layer: compare
    with the value that the method `random` has. NaN for blank or constant maps and images without edges.

    Returns:
        edges_ssim, edges_correlation: (B,) float32 in [-1,1].

    Source: edge detectors as a baseline, Adebayo et al. 2018, "Sanity checks for saliency maps".
    """
    edge_map = sobel(case.images)
    fine = min(case.images.shape[2:])
    scaled = [at_scale(edge_map, scale) for scale in EDGE_SCALES if scale == 1 or fine // scale >= EDGE_CELLS]
    similarity = torch.stack([ssim(case.heatmaps, maps) for maps in scaled]).amax(0)
    # Edges that are even at one scale resemble nothing there; another scale may count.
    pattern = torch.stack([correlation(case.heatmaps, maps).nan_to_num(0) for maps in scaled]).amax(0)
    undefined = case.blank | is_constant(case.heatmaps) | (edge_map.amax((1, 2)) < NO_EDGE)
    return {
        "edges_ssim": similarity.masked_fill(undefined, torch.nan),
        "edges_correlation": pattern.masked_fill(undefined, torch.nan),
    }


def sobel(images: Tensor) -> Tensor:
    """Gradient magnitude (B,H,W), in grey values of [0,1] a pixel, of images (B,3,H,W) in [0,1]."""
    return spatial_gradient(rgb_to_grayscale(images), mode="sobel")[:, 0].norm(dim=1)


def at_scale(maps: Tensor, scale: int) -> Tensor:
    """Maps (B,H,W) averaged over scale × scale pixels, at their own size again, divided by their maximum."""
    h, w = maps.shape[1:]
    coarse = F.adaptive_avg_pool2d(maps[:, None], (max(1, h // scale), max(1, w // scale)))
    fine = F.interpolate(coarse, (h, w), mode="bilinear", align_corners=False)[:, 0]
    return fine / fine.amax((1, 2), keepdim=True).clamp_min(torch.finfo(fine.dtype).tiny)


_RANDOM = "of the maps of the trained model and of one whose layers are random"
RANDOMISATION = Metric(
    name="randomisation",
    function=randomisation,
    columns=(
        Column("randomisation_ssim", "lower", f"SSIM (-1 to 1) {_RANDOM}."),
        Column("randomisation_correlation", "lower", f"Correlation (-1 to 1) {_RANDOM}."),
        Column(
            "randomisation_ssim_curve", "lower", f"SSIM (-1 to 1) {_RANDOM} down to each stage.", curve=True
        ),
        Column(
            "randomisation_correlation_curve",
            "lower",
            f"Correlation (-1 to 1) {_RANDOM} down to each stage.",
            curve=True,
        ),
    ),
    source="Adebayo et al. 2018, arXiv 1810.03292",
)
EDGES = Metric(
    name="edges",
    function=edges,
    columns=(
        Column(
            "edges_ssim", "", "SSIM (-1 to 1) of the map with the image's edges; high: it may be only edges."
        ),
        Column("edges_correlation", "", "Correlation (-1 to 1) of the map with the image's edges, likewise."),
    ),
    source="edge detectors as in Adebayo et al. 2018, arXiv 1810.03292",
)
