"""CF-CAM sharp: the last layer's class map, spread over alike places of an earlier layer, and its evidence there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from cfcam_gpu.cfcam.maps import over_maximum
from cfcam_gpu.methods.features import CapturedFeatures
from cfcam_gpu.methods.gradient import gradcam

#: The likeness of two places is the positive part of their features' correlation to this power.
_LIKENESS_POWER = 2

#: The weight of a channel's evidence is the cosine between it and the spread map to this power.
_AGREEMENT_POWER = 2

#: Share of the evidence in the map; the rest is the spread map alone.
_SHARE = 0.5

#: The curve that the map passes through: m^S / (m^S + M^S), m in [0,1]. M of the maximum becomes about half; what is
#: below becomes darker and what is above brighter. A larger M puts more of the map on the object, and costs more of the
#: class's probability where the map alone is shown (`bench/results/sharp_search.json`).
_STEEPNESS, _MIDDLE = 6, 0.375

#: Features that differ from the mean by less than this share of the largest differ by rounding alone.
_ROUNDING = 1e-6

#: Most likenesses held at a time: 256 MB.
_MOST = 2**26


def cfcam_sharp(features: CapturedFeatures) -> Tensor:
    """Grid (B,K,h',w') at the resolution of the earlier layer, on the scale of the class map.

    The score is the class's against all others (`cfcam_gpu.capture.contrast`), so that what speaks for other classes
    as well counts less; where each class has a sigmoid of its own, or the targets are functions, it is as given.

    1. The class map: Grad-CAM of the last layer.
    2. Spread: a place of the earlier layer gets the average of the class map, weighted by how alike its features
       are to those of each other place. A part of an object passes its evidence to the whole object, and the map
       takes on the object's outline.
    3. Evidence: positive gradient times activation of each channel of the earlier layer, weighted by how far it
       agrees with the spread map; half of the map is multiplied by the square root of their sum.
    4. A curve that darkens the lower part of the map and brightens the upper one.

    Nothing is clustered: groups of channels add nothing on real scenes. The spread by correlations is that of
    weakly supervised segmentation (Wang et al. 2020, SEAM, arXiv 2004.04581, section 3.3), which trains it.
    """
    finer, steps = features.at_finer_layer(), STEPS[features.engine]
    of_activations, of_gradients = finer.not_finite()
    bad = (of_activations | of_gradients)[:, None, None, None]
    size = finer.activations.shape[2:]
    class_map = F.interpolate(gradcam(features), size=size, mode="bilinear", align_corners=False)
    spread = steps.spread(class_map, finer.activations)
    evidence = steps.evidence(finer.activations, finer.gradients, spread)
    grid = spread * (1 - _SHARE + _SHARE * over_maximum(evidence).sqrt())
    return _steeper(grid).masked_fill(bad, torch.nan)


def _spread(maps: Tensor, features: Tensor) -> Tensor:
    """Maps (B,K,h,w), each cell replaced by the average of all, weighted by likeness of the features (B,C,h,w)."""
    unit = _unit(features.flatten(2))
    values = maps.flatten(2).transpose(1, 2)
    rows = max(1, _MOST // max(1, len(unit) * unit.shape[2]))
    parts = [_average(part, unit, values) for part in unit.split(rows, dim=2)]
    spread = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
    return spread.transpose(1, 2).reshape(maps.shape)


def _unit(places: Tensor) -> Tensor:
    """Features (B,C,N), less the mean of all N places, at unit length; zeros where only rounding is left."""
    centred = places - places.mean(2, keepdim=True)
    length = torch.linalg.vector_norm(centred, dim=1, keepdim=True)
    largest = torch.linalg.vector_norm(places, dim=1, keepdim=True).amax(2, keepdim=True)
    # Divided by infinity they are 0.
    return centred.div_(length.masked_fill(length <= largest.mul_(_ROUNDING), torch.inf))


def _average(places: Tensor, unit: Tensor, values: Tensor) -> Tensor:
    """(B,n,K) averages of values (B,N,K) for n places (B,C,n), of all N (B,C,N); 0 where a place is like none."""
    likeness = (places.transpose(1, 2) @ unit).relu_().pow_(_LIKENESS_POWER)
    return (likeness @ values).div_(_not_zero(likeness.sum(2, keepdim=True)))


def _agreeing(activations: Tensor, gradients: Tensor, maps: Tensor) -> Tensor:
    """Evidence (B,K,h,w), not negative, whose scale means nothing: positive activation times gradient of all channels.

    Each channel is weighted by its agreement with maps (B,K,h,w). It and the maps are divided by the largest value of
    their image and target first: squares of small gradients would be 0.

    Args:
        activations: (B,C,h,w).
        gradients: (B,K,C,h,w).
        maps: (B,K,h,w), not negative.
    """
    positive = (activations[:, None] * gradients).relu_()
    positive = positive.div_(_not_zero(positive.amax((2, 3, 4), keepdim=True))).flatten(3)
    direction = over_maximum(maps).flatten(2)[..., None]
    # The maps' length is the same for all channels, and so for the evidence.
    length = torch.linalg.vector_norm(positive, dim=3)
    cosine = (positive @ direction)[..., 0] / _not_zero(length)
    return (cosine.pow_(_AGREEMENT_POWER)[:, :, None] @ positive).view(maps.shape)


def _not_zero(lengths: Tensor) -> Tensor:
    """Values that are not negative as divisors: 0 becomes the smallest number, and 0 / 0 is 0 then."""
    return lengths.clamp_min(torch.finfo(lengths.dtype).tiny)


def _steeper(maps: Tensor) -> Tensor:
    """Maps (B,K,h,w), not negative, through the curve; each keeps its maximum.

    Example:
        >>> _steeper(torch.tensor([[[[0.0, 0.2, 0.4, 1.0]]]])).sum().round(decimals=2)
        tensor(1.6200)
    """
    peak = maps.amax((2, 3), keepdim=True)
    raised = (maps / _not_zero(peak)).pow_(_STEEPNESS)
    middle = _MIDDLE**_STEEPNESS
    return (peak * (1 + middle) * raised).div_(raised + middle)


@dataclass(frozen=True)
class Steps:
    """What computes the two steps that take nearly all the time.

    Attributes:
        spread: class maps (B,K,h,w), features (B,C,h,w) -> spread maps (B,K,h,w).
        evidence: activations (B,C,h,w), gradients (B,K,C,h,w), spread maps (B,K,h,w) -> evidence (B,K,h,w), whose
            scale means nothing.
    """

    spread: Callable[[Tensor, Tensor], Tensor]
    evidence: Callable[[Tensor, Tensor, Tensor], Tensor]


def _spread_in_kernels(maps: Tensor, features: Tensor) -> Tensor:
    from cfcam_gpu.engines import triton_engine

    return triton_engine.spread(maps, features, _ROUNDING)


def _agreeing_in_kernels(activations: Tensor, gradients: Tensor, maps: Tensor) -> Tensor:
    from cfcam_gpu.engines import triton_engine

    return triton_engine.evidence(activations, gradients, maps)


def with_steps(**steps: Callable[..., Tensor]) -> dict[str, Steps]:
    """`STEPS` with others in the place of `spread` or `evidence`, for every engine."""
    return {engine: replace(ours, **steps) for engine, ours in STEPS.items()}


#: Engine -> the steps; `auto` is that of features which no explainer has prepared. Those of `triton` have the powers
#: `_LIKENESS_POWER` and `_AGREEMENT_POWER` of 2 written out.
STEPS: dict[str, Steps] = {
    "auto": Steps(_spread, _agreeing),
    "torch": Steps(_spread, _agreeing),
    "triton": Steps(_spread_in_kernels, _agreeing_in_kernels),
}
