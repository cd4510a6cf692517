"""What a metric gets (`Case`), what it gives (`Column`) and how it is listed (`Metric`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from cfcam_gpu.metrics.options import MetricOptions


class Maps(Protocol):
    """One method's ways to make more heatmaps of a batch; all (…,H,W) float32 in [0,1]."""

    @property
    def gradients(self) -> Tensor | None:
        """(B,C,h,w) float32 of the clean batch; None where the method uses no gradients."""

    @property
    def module(self) -> nn.Module:
        """The explained model; it takes normalised images."""

    def of_gradients(self, gradients: Tensor) -> Tensor:
        """Heatmaps (B,H,W) from other gradients (B,C,h,w) and the same activations."""

    def of_images(self, images: Tensor, targets: Tensor) -> Tensor:
        """Heatmaps (N,H,W) of images (N,3,H,W) in [0,1] for targets (N,); (N,K,H,W) for targets (N,K)."""

    def of_model(self, model: nn.Module) -> Tensor:
        """Heatmaps (B,H,W) of the same images and targets by another model with the same layers."""


@dataclass(frozen=True)
class Case:
    """One batch of images explained by one method.

    Attributes:
        images: (B,3,H,W) float32 in [0,1], RGB, as the model sees them before normalisation.
        targets: (B,) int64, the explained class.
        clean: (B,) float32 in [0,1], softmax probability of the target on `images`.
        heatmaps: (B,H,W) float32 in [0,1].
        blank: (B,) bool: maps without positive evidence, zero everywhere.
        seeds: (B,) int64 on the CPU, stable for each sample; see `normal`.
        model: images (N,3,H,W) in [0,1] to logits (N,classes) float32, any N, without gradients.
        maps: makes more maps by the same method.
        masks: (B,H,W) bool, the object's pixels; an image without a True has no mask. None: no image has.
    """

    images: Tensor
    targets: Tensor
    clean: Tensor
    heatmaps: Tensor
    blank: Tensor
    seeds: Tensor
    model: Callable[[Tensor], Tensor]
    maps: Maps
    masks: Tensor | None = None


@dataclass(frozen=True)
class Column:
    """One number of an image, or one curve.

    Attributes:
        name: of the column in the results.
        better: `higher`, `lower`, or empty where neither is better by itself.
        about: one sentence, with unit and range.
        curve: the values are (B,S) instead of (B,).
    """

    name: str
    better: str
    about: str
    curve: bool = False


@dataclass(frozen=True)
class Metric:
    """A metric and the columns it fills.

    Attributes:
        function: gives for each column's name (B,) float32, or (B,S) for a curve; NaN: not defined for
            that image.
        source: citation of the definition.
        needs_masks: measures only images that have a mask.
    """

    name: str
    function: Callable[[Case, MetricOptions], dict[str, Tensor]]
    columns: tuple[Column, ...]
    source: str
    needs_masks: bool = False


def normal(seeds: Tensor, seed: int, draw: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal numbers (B,*shape) float32 on the CPU, each image's from its own generator.

    They depend on the image's seed, the options' `seed` and the draw's number alone, not on the batch.
    NumPy's generator, as it mixes several seeds and takes all their bits; PyTorch's on the CPU takes 32.
    """
    keys = [[key % 2**64, seed, draw] for key in seeds.tolist()]
    draws = [np.random.default_rng(key).standard_normal(shape, dtype=np.float32) for key in keys]
    return torch.from_numpy(np.stack(draws))
