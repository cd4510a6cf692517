"""pytorch-grad-cam's helpers for pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cfcam_gpu.compat.pytorch_grad_cam.missing import missing
from cfcam_gpu.errors import ConfigError


def scale_cam_image(
    cam: Iterable[npt.NDArray[Any]], target_size: tuple[int, ...] | None = None
) -> npt.NDArray[np.float32]:
    """Each map (h,w) less its minimum, over its maximum, resized to (width, height).

    Maps of volumes (d,h,w) are resized to (width, height, depth) by cubic splines, as in pytorch-grad-cam.

    Example:
        >>> scale_cam_image([np.array([[1.0, 3.0]])]).round(4).tolist()
        [[[0.0, 1.0]]]
    """
    scaled = []
    for values in cam:
        values = values - np.min(values)
        values = (values / (1e-7 + np.max(values))).astype(np.float32)
        scaled.append(values if target_size is None else _resized(values, target_size))
    return np.asarray(scaled, np.float32)


def _resized(values: npt.NDArray[np.float32], size: tuple[int, ...]) -> npt.NDArray[Any]:
    if values.ndim == 2:
        return cv2.resize(values, size)
    from scipy.ndimage import zoom

    factors = [new / old for new, old in zip(reversed(size), values.shape, strict=True)]
    resized: npt.NDArray[Any] = zoom(values, factors)
    return resized


def show_cam_on_image(
    img: npt.NDArray[np.floating],
    mask: npt.NDArray[np.floating],
    use_rgb: bool = False,  # noqa: FBT001, FBT002  (pytorch-grad-cam's signature)
    colormap: int = cv2.COLORMAP_JET,
    image_weight: float = 0.5,
) -> npt.NDArray[np.uint8]:
    """A map over a picture, brightened to the full range.

    Args:
        img: (H,W,3) floating-point in [0, 1].
        mask: (H,W) in [0, 1].
        use_rgb: whether `img` is RGB; else it is BGR.

    Raises:
        ConfigError: an image or weight out of range.

    Example:
        >>> show_cam_on_image(np.zeros((1, 1, 3), np.float32), np.ones((1, 1), np.float32), use_rgb=True).tolist()
        [[[255, 0, 0]]]
    """
    if np.max(img) > 1:
        raise ConfigError(
            f"img must be floating-point in [0, 1], got values up to {np.max(img):g}; divide by 255"
        )
    if not 0 <= image_weight <= 1:
        raise ConfigError(f"image_weight must be from 0 to 1, got {image_weight}")
    colours = cv2.applyColorMap((255 * mask).astype(np.uint8), colormap)
    if use_rgb:
        colours = cv2.cvtColor(colours, cv2.COLOR_BGR2RGB)
    blended = (1 - image_weight) * (colours.astype(np.float32) / 255) + image_weight * img
    return np.asarray(255 * (blended / np.max(blended)), np.float64).astype(np.uint8)


def preprocess_image(
    img: npt.NDArray[Any], mean: Sequence[float] = (0.5, 0.5, 0.5), std: Sequence[float] = (0.5, 0.5, 0.5)
) -> Tensor:
    """(1,3,H,W) of a picture (H,W,3), less the mean, over the standard deviation; uint8 is divided by 255 first."""
    pixels = img.astype(np.float32) / (255 if img.dtype == np.uint8 else 1)
    normalised = (pixels - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return torch.from_numpy(np.ascontiguousarray(normalised.transpose(2, 0, 1)))[None]


def __getattr__(name: str) -> object:
    raise missing(__name__, name)
