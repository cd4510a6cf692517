"""From an image to a model's input, and which part of the image the model sees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from cfcam_gpu._utils.messages import unknown
from cfcam_gpu.errors import ImageError, ModelError

if TYPE_CHECKING:  # worker processes do not import PyTorch
    from torch import Tensor

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)

INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
}


#: A whole image is resized before it is cropped if it then has at most so many times the pixels of the view.
_LARGEST_WHOLE = 16


@dataclass(frozen=True)
class Preprocess:
    """Turns an image into the model's input, as torchvision's evaluation transforms do.

    Attributes:
        size: (height, width) of the model's input, in pixels.
        mean, std: one number a channel (red, green, blue; or gray; or a file's bands in their order), for
            pixel values in [0, 1]. Their count is the number of channels of the model's input.
        resize: None: the whole image is squashed to `size`. A number of pixels: the image's shorter
            side is resized to it, keeping the aspect ratio, and the centre is cropped to `size`.
            (height, width): the whole image is squashed to it, and the centre is cropped.
        interpolation: a key of `INTERPOLATIONS`, antialiased (except nearest).

    Raises:
        ModelError: a value that no model can have.

    Example:
        >>> preprocess = Preprocess(size=(2, 2), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), resize=2)
        >>> image = Image.new("RGB", (8, 4), (255, 0, 255))
        >>> preprocess(image)[:, 0, 0]
        tensor([ 1., -1.,  1.])
        >>> preprocess.visible_box(8, 4)
        (2.0, 0.0, 6.0, 4.0)
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | tuple[int, int] | None = None
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if len(self.size) != 2 or not all(isinstance(n, int) and n >= 1 for n in self.size):
            raise ModelError(f"size must be two positive numbers of pixels (height, width), got {self.size}")
        self._check_resize()
        for name, values in (("mean", self.mean), ("std", self.std)):
            if not values or not all(math.isfinite(value) for value in values):
                raise ModelError(f"{name} must be one number a channel, got {values}")
        if len(self.mean) != len(self.std):
            raise ModelError(
                f"mean and std must have one number a channel each, got {len(self.mean)} and {len(self.std)}"
            )
        if min(self.std) <= 0:
            raise ModelError(f"std must be above 0 in every channel, got {self.std}")
        if self.interpolation not in INTERPOLATIONS:
            raise ModelError(unknown("interpolation", self.interpolation, INTERPOLATIONS))

    def _check_resize(self) -> None:
        if self.resize is None:
            return
        square = (max(self.size),) * 2
        least, got = (
            (square, (self.resize,) * 2) if isinstance(self.resize, int) else (self.size, self.resize)
        )
        if len(got) != 2 or got[0] < least[0] or got[1] < least[1]:
            expected = least if isinstance(self.resize, tuple) else least[0]
            raise ModelError(f"resize must be at least {expected} for size {self.size}, got {self.resize}")

    def __call__(self, image: Image.Image) -> Tensor:
        """An image as for `view` -> (channels, H, W) float32 on the CPU, normalised. Raises ImageError."""
        import torch

        return self.normalise(torch.from_numpy(self.view(image))[None])[0]

    def view(
        self, image: Image.Image, box: tuple[float, float, float, float] | None = None
    ) -> npt.NDArray[Any]:
        """An image -> (H, W, channels) uint8: the part the model sees, at input size.

        Args:
            image: RGB, of any size, for models of three channels or of one, which get its luminance. For models
                of one channel also of mode F, with values from 0 to 255: the view is then float32. For other
                models it has as many bands as the model has channels.
            box: where that part lies in the image, in its pixels, for an image that was decoded smaller than
                its file stores it; None: the `visible_box` of the image's size.

        Raises:
            ImageError: the image has another mode.
        """
        if self.channels in (1, 3):
            if image.mode != "RGB" and (image.mode, self.channels) != ("F", 1):
                raise ImageError(f"expected an RGB image, got mode {image.mode}; read files with load_image")
        elif len(image.getbands()) != self.channels:
            bands = len(image.getbands())
            raise ImageError(f"the image has {bands} channels, the model takes {self.channels}")
        method = INTERPOLATIONS[self.interpolation]
        if self.channels == 3:
            return np.array(self.resized(image, method, box))
        # Band by band: Pillow would weigh colours by an alpha channel.
        if image.mode == "F":
            fine = np.asarray(self.resized(image, method, box))
            return np.clip(fine, 0, 255)[..., None]  # bicubic filters overshoot
        planes = (image.convert("L"),) if self.channels == 1 else image.split()
        return np.stack([np.asarray(self.resized(plane, method, box)) for plane in planes], axis=-1)

    def resized(
        self,
        image: Image.Image,
        method: Image.Resampling,
        box: tuple[float, float, float, float] | None = None,
    ) -> Image.Image:
        """The part of an image that the model sees, at input size; `box` as for `view`.

        Without `box` the pixels are those of torchvision's `Resize` and `CenterCrop` within one level, in every
        orientation. Only images whose resized whole would have more than 16 times the pixels of the view may differ
        more, with an interpolation other than bilinear.
        """
        height, width = self.size
        whole = None if box else self.whole_size(*image.size)
        if whole and (method != Image.Resampling.BILINEAR or min(whole) > min(image.size)):
            # Pillow resizes first along one side, rounds, then along the other, and which comes first depends on the
            # sizes: of a part it may be another one than of the whole image.
            left, top = (round((side - crop) / 2) for side, crop in zip(whole, (width, height), strict=True))
            return image.resize(whole, method).crop((left, top, left + width, top + height))
        return image.resize((width, height), method, box or self.visible_box(*image.size))

    def whole_size(self, width: int, height: int) -> tuple[int, int] | None:
        """(width, height) of the resized image that the view is cropped from; None where it is none or very large."""
        if self.resize is None:
            return None
        whole = self._resized_size(width, height)
        return whole if whole[0] * whole[1] <= _LARGEST_WHOLE * self.size[0] * self.size[1] else None

    def _resized_size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) of the resized image, rounded as torchvision's Resize does."""
        if not isinstance(self.resize, int):
            new_height, new_width = self.resize or self.size
            return new_width, new_height
        short = min(width, height)
        return int(self.resize * width / short), int(self.resize * height / short)

    def normalise(self, views: Tensor) -> Tensor:
        """(B, H, W, channels) of 0 to 255 -> (B, channels, H, W) float32, same device: (x / 255 - mean) / std."""
        import torch

        from cfcam_gpu._utils.device import copied_to

        mean, std = copied_to(torch.tensor([self.mean, self.std]), views.device)
        return ((views.float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()

    def shown(self, image: Image.Image) -> npt.NDArray[Any]:
        """RGB image -> (H, W, 3) uint8: the part the model sees, in colour whatever the model takes."""
        return replace(self, mean=(0.0,) * 3, std=(1.0,) * 3).view(image)

    @property
    def channels(self) -> int:
        """Number of channels of the model's input."""
        return len(self.mean)

    def visible_box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) of what the model sees of a width×height image, in the image's pixels."""
        if self.resize is None:
            return 0.0, 0.0, float(width), float(height)
        crop_height, crop_width = self.size
        new_width, new_height = self._resized_size(width, height)
        # Rounded as torchvision's CenterCrop does.
        left, top = round((new_width - crop_width) / 2), round((new_height - crop_height) / 2)
        x, y = width / new_width, height / new_height
        right, bottom = min((left + crop_width) * x, width), min((top + crop_height) * y, height)
        return left * x, top * y, right, bottom


#: Of the published code: the whole image squashed to 224×224, ImageNet's mean and std.
PUBLISHED_PREPROCESS = Preprocess((224, 224), _IMAGENET_MEAN, _IMAGENET_STD)


def rgb(values: Sequence[float]) -> tuple[float, float, float]:
    """Three numbers (red, green, blue) as a tuple of floats.

    Example:
        >>> rgb([0, 0.5, 1])
        (0.0, 0.5, 1.0)
    """
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def overridden(
    preprocess: Preprocess,
    size: Sequence[int] | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> Preprocess:
    """The preprocessing with every value that is not None replaced.

    A new size changes `resize` in proportion, so that the model sees the same part of the image.

    Raises:
        ModelError: a value that does not fit.

    Example:
        >>> overridden(PUBLISHED_PREPROCESS, size=(64, 64), mean=None, std=None).size
        (64, 64)
    """
    changes: dict[str, Any] = {"size": size, "mean": mean, "std": std}
    changes = {name: tuple(value) for name, value in changes.items() if value is not None}
    if size is not None and preprocess.resize is not None:
        changes["resize"] = _scaled(preprocess.resize, tuple(size), preprocess.size)
    return replace(preprocess, **changes)


def _scaled(
    resize: int | tuple[int, int], size: tuple[int, ...], before: tuple[int, int]
) -> int | tuple[int, ...]:
    if isinstance(resize, int):
        return math.ceil(resize * max(size) / max(before))
    return tuple(math.ceil(side * new / old) for side, new, old in zip(resize, size, before, strict=True))
