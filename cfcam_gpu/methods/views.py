"""An image at several sizes, mirrored or not, brighter or darker, and the maps of these views joined to one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from cfcam_gpu.cfcam.maps import over_maximum, upsample_and_normalise
from cfcam_gpu.config import check_scales
from cfcam_gpu.explanation import Explanation, without_invalid

#: The largest step of a view's sides, in pixels, see `scaled`.
_STEP = 32

#: With `aug_smooth`: factors of an image's values, beside 1.
FACTORS = (0.9, 1.1)


@dataclass(frozen=True)
class ImageView:
    """One view of an image.

    Attributes:
        scale: factor of the image's size.
        mirrored: whether left and right change places.
        factor: of the values of the image as the model takes it.
    """

    scale: float = 1.0
    mirrored: bool = False
    factor: float = 1.0

    @property
    def is_plain(self) -> bool:
        """Whether it is the image itself."""
        return self == ImageView()

    def of(self, images: Tensor) -> Tensor:
        """The view of images (B,channels,H,W): resized bilinearly, smoothed where it becomes smaller.

        Example:
            >>> ImageView(1.43).of(torch.zeros(1, 3, 224, 224)).shape
            torch.Size([1, 3, 320, 320])
        """
        size = scaled(images.shape[2], self.scale), scaled(images.shape[3], self.scale)
        if size != images.shape[2:]:
            # The CPU smoothes no half precision.
            wide = images.float() if images.element_size() == 2 else images
            resized = F.interpolate(wide, size, mode="bilinear", align_corners=False, antialias=True)
            images = resized.to(images.dtype)
        images = images.flip(3) if self.mirrored else images
        return images if self.factor == 1 else images * self.factor

    def back(self, maps: Tensor) -> Tensor:
        """Maps (…,h,w) of the view, turned as the image is."""
        return maps.flip(-1) if self.mirrored else maps


def scaled(side: int, scale: float) -> int:
    """A side, scaled, as a multiple of the largest power of two up to 32 that divides it: strides go on to fit.

    The step is at most a seventh of the side, so that small images have other sizes than their own.

    Example:
        >>> scaled(224, 1.43), scaled(240, 1.43), scaled(299, 2.0), scaled(32, 1.43)
        (320, 336, 598, 44)
    """
    step = math.gcd(side, _STEP)
    while step > 1 and step * 7 > side:
        step //= 2
    return max(1, round(side * scale / step)) * step


def image_views(scales: Sequence[float], *, flip: bool, aug_smooth: bool = False) -> tuple[ImageView, ...]:
    """The views of every scale, the one nearest to the image first.

    Args:
        flip: the mirror image of each as well.
        aug_smooth: each and its mirror image with 0.9, 1 and 1.1 times its values, as in pytorch-grad-cam.

    Raises:
        ConfigError: no scale, one twice, or one that is no factor.

    Example:
        >>> [(view.scale, view.mirrored) for view in image_views((2.0, 1.0), flip=True)]
        [(1.0, False), (1.0, True), (2.0, False), (2.0, True)]
    """
    check_scales(scales)
    ordered = sorted(scales, key=lambda scale: abs(math.log(scale)))
    factors = (1.0, *FACTORS) if aug_smooth else (1.0,)
    sides = (False, True) if flip or aug_smooth else (False,)
    return tuple(
        ImageView(float(scale), mirrored, factor)
        for scale in ordered
        for factor in factors
        for mirrored in sides
    )


def joined(results: Sequence[Explanation], views: Sequence[ImageView]) -> Explanation:
    """The mean of the views' maps (B,K,…), each over its maximum; what is no map is that of the first view.

    The grid has the shape of the largest. With `aug_smooth` the maximum is that of the map at the image's size, as in
    pytorch-grad-cam. An image that has a problem in one view has it in all.
    """
    shape = [max(result.grid.shape[axis] for result in results) for axis in (2, 3)]
    over = _over_peak if any(view.factor != 1 for view in views) else _over_maximum
    grids = [
        F.interpolate(view.back(over(result)), shape, mode="bilinear", align_corners=False)
        for result, view in zip(results, views, strict=True)
    ]
    grid = torch.stack(grids).mean(0)
    first = results[0]
    heatmap, peak = upsample_and_normalise(grid, (first.heatmap.shape[2], first.heatmap.shape[3]))
    codes = torch.stack([result.status for result in results])
    status = codes.masked_fill(codes == 0, torch.iinfo(codes.dtype).max).amin(0)
    status = status.masked_fill((codes == 0).all(0), 0)
    blank = torch.stack([result.blank for result in results]).all(0)
    return without_invalid(replace(first, grid=grid, heatmap=heatmap, peak=peak, blank=blank, status=status))


def _over_maximum(result: Explanation) -> Tensor:
    return over_maximum(result.grid)


def _over_peak(result: Explanation) -> Tensor:
    peak = result.peak[..., None, None]
    return result.grid / peak.masked_fill(peak <= 0, 1)
