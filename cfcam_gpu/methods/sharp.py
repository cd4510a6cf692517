"""CF-CAM sharp: the class map of the last layer, spread over places that look alike at an earlier layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cfcam_gpu.cfcam.weighting import activation_map
from cfcam_gpu.methods.features import CapturedFeatures
from cfcam_gpu.methods.sharpened import finite

#: The likeness of two places is the positive part of their features' correlation to this power.
_LIKENESS_POWER = 2

#: The curve that the spread map passes through: m^S / (m^S + M^S), m in [0,1]. Half of the maximum stays about half;
#: what is below becomes darker and what is above brighter.
_STEEPNESS, _MIDDLE = 6, 0.5

#: Features that differ from the mean by less than this share of the largest differ by rounding alone.
_ROUNDING = 1e-6

#: Most likenesses held at a time: 256 MB.
_MOST = 2**26


def cfcam_sharp(features: CapturedFeatures) -> Tensor:
    """Grid (B,K,h',w') at the resolution of the earlier layer, on the scale of the class map.

    1. The class map: Grad-CAM of the target's score less that of all classes together, z - T·log Σ exp(z/T), so
       that what speaks for other classes as well counts less. With one class, or functions for targets: of the
       score alone.
    2. Spread: a place of the earlier layer gets the average of the class map, weighted by how alike its features
       are to those of each other place. A part of an object passes its evidence to the whole object, and the map
       takes on the object's outline.
    3. A curve that darkens the lower half of the map and brightens the upper one.

    No gradient goes back as far as the earlier layer: one forward pass and two backward passes of the head.

    The spread by correlations is that of weakly supervised segmentation (Wang et al. 2020, SEAM, arXiv 2004.04581,
    section 3.3); there it is trained.
    """
    finer, bad = finite(features.at_finer_layer())
    assert features.contrast is not None
    weights = (features.gradients - features.contrast[:, None]).mean((3, 4))
    class_map = activation_map(features.activations, weights)
    class_map = F.interpolate(
        class_map, size=finer.activations.shape[2:], mode="bilinear", align_corners=False
    )
    return _steeper(_spread(class_map, finer.activations)).masked_fill(bad, torch.nan)


def _spread(maps: Tensor, features: Tensor) -> Tensor:
    """Maps (B,K,h,w), each cell replaced by the average of all, weighted by likeness of the features (B,C,h,w)."""
    unit = _unit(features.flatten(2))
    values = maps.flatten(2).transpose(1, 2)
    rows = max(1, _MOST // max(1, len(unit) * unit.shape[2]))
    parts = [_average(part, unit, values) for part in unit.split(rows, dim=2)]
    return torch.cat(parts, 1).transpose(1, 2).reshape(maps.shape)


def _unit(places: Tensor) -> Tensor:
    """Features (B,C,N), less the mean of all N places, at unit length; zeros where only rounding is left."""
    centred = places - places.mean(2, keepdim=True)
    length = torch.linalg.vector_norm(centred, dim=1, keepdim=True)
    largest = torch.linalg.vector_norm(places, dim=1, keepdim=True).amax(2, keepdim=True)
    rounding = length <= _ROUNDING * largest
    return (centred / length.masked_fill(rounding, 1)).masked_fill(rounding, 0)


def _average(places: Tensor, unit: Tensor, values: Tensor) -> Tensor:
    """(B,n,K) averages of values (B,N,K) for n places (B,C,n), of all N (B,C,N); 0 where a place is like none."""
    likeness = (places.transpose(1, 2) @ unit).relu() ** _LIKENESS_POWER
    total = likeness.sum(2, keepdim=True)
    return likeness @ values / total.masked_fill(total <= 0, 1)


def _steeper(maps: Tensor) -> Tensor:
    """Maps (B,K,h,w), not negative, through the curve; each keeps its maximum.

    Example:
        >>> _steeper(torch.tensor([[[[0.0, 0.25, 0.5, 1.0]]]]))
        tensor([[[[0.0000, 0.0156, 0.5078, 1.0000]]]])
    """
    peak = maps.amax((2, 3), keepdim=True)
    raised = (maps / peak.masked_fill(peak <= 0, 1)) ** _STEEPNESS
    middle = _MIDDLE**_STEEPNESS
    return peak * (1 + middle) * raised / (raised + middle)
