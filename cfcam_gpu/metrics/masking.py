"""Images of which a heatmap's pixels are taken away or kept, and the target's probability on them."""

from __future__ import annotations

import torch
from kornia.filters import gaussian_blur2d
from torch import Tensor

from cfcam_gpu.metrics.base import Case

#: Window in pixels and standard deviation of the blurred baseline (RISE, Petsiuk et al. 2018, its code).
BLUR = (11, 5.0)


def ranks(heatmaps: Tensor) -> Tensor:
    """Each pixel's place in its own map, (B,H,W) int64: 0 for the highest value.

    Equal values follow the reading order, so a blank map ranks pixels from the top left.
    """
    order = heatmaps.flatten(1).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places).view(heatmaps.shape)


def probability(case: Case, images: Tensor, index: Tensor | slice = slice(None)) -> Tensor:
    """Softmax probability (N,) of the targets of the case's images `index` on other images (N,3,H,W)."""
    return case.model(images).softmax(1).gather(1, case.targets[index, None])[:, 0]


def masked_probabilities(
    case: Case, places: Tensor, counts: Tensor, inside: Tensor, outside: Tensor, batch_size: int
) -> Tensor:
    """The target's probability (B,S) where the `counts[s]` first pixels come from `inside`, the rest from `outside`.

    Args:
        places: (B,H,W), see `ranks`.
        counts: (S,) int64, S at least 1, on the images' device.
        inside, outside: (B,3,H,W).
        batch_size: composed images that exist at once.
    """
    image = torch.arange(len(places), device=places.device).repeat_interleave(len(counts))
    count = counts.repeat(len(places))
    parts = []
    for i, k in zip(image.split(batch_size), count.split(batch_size), strict=True):
        first = (places[i] < k[:, None, None])[:, None]
        parts.append(probability(case, torch.where(first, inside[i], outside[i]), i))
    return torch.cat(parts).view(len(places), len(counts))


def black(images: Tensor) -> Tensor:
    """Zeros of the images' shape."""
    return torch.zeros_like(images)


def blurred(images: Tensor) -> Tensor:
    """The images under a Gaussian of RISE's size and sigma.

    RISE's own code makes its kernel by blurring a point inside the window, which gives a nearly even one, and
    pads the border with zeros; here the kernel is the Gaussian itself and the border repeats its pixels.
    """
    size, sigma = BLUR
    return gaussian_blur2d(images, (size, size), (sigma, sigma), border_type="replicate")
