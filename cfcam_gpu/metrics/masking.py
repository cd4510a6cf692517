"""Images in which pixels are replaced in the order of a heatmap, and the target's probability on them."""

from __future__ import annotations

import torch
from kornia.filters import gaussian_blur2d
from torch import Tensor

from cfcam_gpu.capture.scoring import probabilities
from cfcam_gpu.metrics.base import Case

#: Window in pixels and standard deviation of the blurred baseline, as in the code of RISE (Petsiuk et al. 2018).
_BLUR = (11, 5.0)


def ranks(heatmaps: Tensor) -> Tensor:
    """Each pixel's rank in its own heatmap, (B,H,W) int64: 0 for the highest value.

    Equal values follow the reading order, so a blank map ranks its pixels from the top left.

    Example:
        >>> ranks(torch.tensor([[[0.2, 0.9], [0.2, 0.0]]]))
        tensor([[[1, 0],
                 [2, 3]]])
    """
    order = heatmaps.flatten(1).argsort(dim=1, descending=True, stable=True)
    positions = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, positions).view(heatmaps.shape)


def probability(case: Case, images: Tensor, index: Tensor | slice = slice(None)) -> Tensor:
    """Probability (N,) of the case's targets on modified images (N,3,H,W).

    `index` (N,) says which image of the case each of them was made from; by default all, in order.

    Example:
        >>> image = torch.ones(1, 3, 4, 4)
        >>> case = Case.of_heatmaps(lambda x: x[:, :2, 0, 0], image, torch.tensor([0]), torch.zeros(1, 4, 4))
        >>> probability(case, 0 * image)
        tensor([0.5000])
    """
    logits = case.model(images)
    return probabilities(logits, case.activation).gather(1, case.targets[index, None])[:, 0]


def masked_probabilities(
    case: Case, places: Tensor, counts: Tensor, inside: Tensor, outside: Tensor, batch_size: int
) -> Tensor:
    """The target's probability (B,S) on images that are composed of two.

    For step s, the `counts[s]` pixels of the lowest ranks come from `inside` and the others from `outside`.

    Args:
        places: (B,H,W) int64, see `ranks`.
        counts: (S,) int64 with S at least 1, on the images' device.
        inside, outside: (B,3,H,W).
        batch_size: number of composed images that are in memory at once.

    Example:
        >>> heatmaps, image = torch.tensor([[[1.0, 0.0]]]), torch.ones(1, 3, 1, 2)
        >>> case = Case.of_heatmaps(lambda x: x[:, 0, 0], image, torch.tensor([0]), heatmaps)
        >>> counts = torch.tensor([0, 1, 2])  # the class is the left pixel, so the first pixel decides
        >>> masked_probabilities(case, ranks(heatmaps), counts, 0 * image, image, batch_size=8)
        tensor([[0.5000, 0.2689, 0.5000]])
    """
    image = torch.arange(len(places), device=places.device).repeat_interleave(len(counts))
    count = counts.repeat(len(places))
    parts = []
    for i, k in zip(image.split(batch_size), count.split(batch_size), strict=True):
        first = (places[i] < k[:, None, None])[:, None]
        parts.append(probability(case, torch.where(first, inside[i], outside[i]), i))
    return torch.cat(parts).view(len(places), len(counts))


def black(images: Tensor) -> Tensor:
    """The black baseline: zeros of the images' shape.

    Example:
        >>> black(torch.ones(1, 3, 2, 2)).sum()
        tensor(0.)
    """
    return torch.zeros_like(images)


def blurred(images: Tensor) -> Tensor:
    """The blurred baseline: images (B,3,H,W) under a Gaussian of 11 pixels and standard deviation 5.

    Source: the code of RISE (Petsiuk et al. 2018). That code makes its kernel by blurring a point inside the window,
    which gives a nearly even one, and pads the border with zeros; here the kernel is the Gaussian itself and the
    border's pixels are repeated.

    Example:
        >>> torch.allclose(blurred(torch.ones(1, 3, 8, 8)), torch.ones(1, 3, 8, 8))
        True
    """
    size, sigma = _BLUR
    return gaussian_blur2d(images, (size, size), (sigma, sigma), border_type="replicate")
