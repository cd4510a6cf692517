"""One method's maps of a batch, and more of them for the metrics that perturb something."""

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
    """From images (N,3,H,W) in [0,1] to what the model takes, as `Preprocess.normalise` does from bytes."""

    def normalise(images: Tensor) -> Tensor:
        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (preprocess.mean, preprocess.std))
        return (images - mean) / std

    return normalise


@dataclass(frozen=True)
class BatchMaps:
    """`metrics.case.Maps` of a method, `cam`, whose features of the batch were captured for all methods.

    Attributes:
        normalise: see `normaliser`.
        at_once: images that are explained together.
        check: called before every pass of the model; raises to end the evaluation.
    """

    cam: CFCAM
    features: CapturedFeatures
    normalise: Callable[[Tensor], Tensor]
    at_once: int
    check: Check = never_ends

    @property
    def gradients(self) -> Tensor | None:
        """None also where a method captures more gradients than these: noise on a part would flatter it."""
        method = self.cam.method
        return self.features.gradients[:, 0] if method.uses_gradients and not method.needs_model else None

    @property
    def module(self) -> nn.Module:
        return self.cam.model

    def of_gradients(self, gradients: Tensor) -> Tensor:
        return self.cam.explain(replace(self.features, gradients=gradients[:, None])).heatmap

    def of_images(self, images: Tensor, targets: Tensor) -> Tensor:
        parts = zip(images.split(self.at_once), targets.split(self.at_once), strict=True)
        return torch.cat(
            [self.cam(self.normalise(some), asked, check=self.check).heatmap for some, asked in parts]
        )

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
        )
        return other(self.features.images, self.features.classes[:, 0], check=self.check).heatmap
