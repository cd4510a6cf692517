"""More heatmaps of a batch by one method, for the metrics that disturb something."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from cfcam_gpu._utils.checks import Check, never_ends
from cfcam_gpu.explainer import CFCAM
from cfcam_gpu.images.preprocess import Preprocess
from cfcam_gpu.methods.features import CapturedFeatures


def normaliser(preprocess: Preprocess) -> Callable[[Tensor], Tensor]:
    """A function from images (N,channels,H,W) float32 in [0,1] to normalised ones; `Preprocess.normalise` takes bytes.

    Example:
        >>> normalise = normaliser(Preprocess((2, 2), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)))
        >>> normalise(torch.ones(1, 3, 2, 2)).unique()
        tensor([2.])
    """

    def normalise(images: Tensor) -> Tensor:
        mean, std = (images.new_tensor(values).view(-1, 1, 1) for values in (preprocess.mean, preprocess.std))
        return (images - mean) / std

    return normalise


@dataclass(frozen=True)
class BatchMaps:
    """A `metrics.MapMaker` of a batch that was captured for several methods.

    Attributes:
        cam: explains by the method.
        features: the captured batch.
        normalise: see `normaliser`.
        batch_size: number of images that are explained together.
        check: called before every pass of the model and every map; raises to end the evaluation.
    """

    cam: CFCAM
    features: CapturedFeatures
    normalise: Callable[[Tensor], Tensor]
    batch_size: int
    check: Check = never_ends

    @property
    def gradients(self) -> Tensor | None:
        """As in `MapMaker`. None also where further gradients are captured: noise on these would be missing."""
        method = self.cam.method
        if self.cam.has_views:
            return None
        return self.features.gradients[:, 0] if method.uses_gradients and not method.needs_model else None

    @property
    def module(self) -> nn.Module:
        return self.cam.model

    def of_gradients(self, gradients: Tensor) -> Tensor:
        self.check()
        return self.cam.explain(replace(self.features, gradients=gradients[:, None])).heatmap

    def of_images(self, images: Tensor, targets: Tensor) -> Tensor:
        batches = zip(images.split(self.batch_size), targets.split(self.batch_size), strict=True)
        heatmaps = []
        for batch, batch_targets in batches:
            self.check()
            heatmaps.append(self.cam(self.normalise(batch), batch_targets, check=self.check).heatmap)
        return torch.cat(heatmaps)

    def of_model(self, model: nn.Module) -> Tensor:
        cam = self.cam
        other = CFCAM(
            model,
            cam.layer_name,
            cam.config,
            cam.engine,
            cam.on_invalid,
            cam.method.name,
            cam.finer_layer_name,
            cam.layout,
            activation=cam.scoring.activation,
            output=cam.scoring.output,
            scales=cam.scales,
            flip=cam.flip,
            aug_smooth=cam.aug_smooth,
        )
        self.check()
        return other(self.features.images, self.features.classes[:, 0], check=self.check).heatmap
