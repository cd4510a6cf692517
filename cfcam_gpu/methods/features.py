"""What a method gets: a layer's activations and gradients, and where it runs the model again, the model too."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from cfcam_gpu.capture import Capture, LayerFeatures, TargetLayer
from cfcam_gpu.capture.model_runner import ModelRunner
from cfcam_gpu.capture.scoring import probabilities
from cfcam_gpu.capture.targets import ScoreFunction, Targets, scores_by
from cfcam_gpu.capture.volumes import Slices
from cfcam_gpu.config import CFCAMConfig
from cfcam_gpu.errors import ConfigError, TargetError

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, kw_only=True)
class Features:
    """B images at the target layer, for K targets each; `dataclasses.replace` makes perturbed ones.

    Attributes:
        activations: (B,C,h,w) float32.
        gradients: (B,K,C,h,w) float32 of the target scores; (B,0,C,h,w) where they were not captured.
        size: (H,W) of the heatmaps.
        config: parameters of the methods that read any.
        engine: a key of `cfcam_gpu.engines.ENGINES`; CF-CAM runs in it.

    Example:
        >>> features = Features(
        ...     activations=torch.rand(5, 4, 6, 6), gradients=torch.rand(5, 2, 4, 6, 6), size=(32, 32)
        ... )
        >>> features.k
        2
    """

    activations: Tensor
    gradients: Tensor
    size: tuple[int, int]
    config: CFCAMConfig = field(default_factory=CFCAMConfig)
    engine: str = "auto"

    @property
    def k(self) -> int:
        """Number of targets per image."""
        return max(1, self.gradients.shape[1])

    def not_finite(self) -> tuple[Tensor, Tensor]:
        """Images with NaN or Inf in their activations, and in their gradients: two masks (B,) bool."""
        of_activations, of_gradients = self.largest()
        return ~(of_activations < math.inf), ~(of_gradients < math.inf).all(1)

    def largest(self) -> tuple[Tensor, Tensor]:
        """Largest magnitudes of each image's activations (B,) and gradients (B,K); NaN where one is NaN."""
        return _largest(self.activations.flatten(1)), _largest(self.gradients.flatten(2))

    def without(self, bad: Tensor) -> Self:
        """With zeros for the images in `bad`, (B,) bool; contiguous, as the engines take them."""
        a, g = self.activations, self.gradients
        if bad.device.type != "cpu" or bad.any():  # elsewhere a copy takes less than waiting for the answer
            a = a.masked_fill(bad[:, None, None, None], 0)
            g = g.masked_fill(bad[:, None, None, None, None], 0)
        return replace(self, activations=a.contiguous(), gradients=g.contiguous())

    def generators(self) -> list[torch.Generator]:
        """A random generator per image, on the CPU, whose seed depends on that image alone.

        The seed is made from the image; without a model, from its activations.
        """
        bits = self._seed_values().float().contiguous().flatten(1).view(torch.int32).long()
        # Odd multipliers that wrap around: a hash of the values and their places.
        places = torch.arange(1, bits.shape[1] + 1, device=bits.device) * 0x5851F42D4C957F2D | 1
        seeds = (bits * places).sum(1) >> 32 & 0x7FFFFFFF
        return [torch.Generator().manual_seed(seed) for seed in seeds.tolist()]

    def _seed_values(self) -> Tensor:
        return self.activations


def _largest(values: Tensor) -> Tensor:
    """Largest magnitudes over the last dimension; NaN where one is NaN."""
    if values.device.type == "cpu":  # where the norm takes ten times as long
        return torch.maximum(values.amax(-1), -values.amin(-1))
    return torch.linalg.vector_norm(values, math.inf, dim=values.ndim - 1)


@dataclass(frozen=True, kw_only=True)
class CapturedFeatures(Features):
    """`Features` that `cfcam_gpu.CFCAM.features` captured from a model, which can be run again.

    Attributes:
        images: (B,3,H,W) as the model takes them.
        targets: (B,K) int64; None for callable targets.
        absent: (B,K) bool: places without a target, where the image's first class stands; None: there are none.
        functions: the callable targets, K per image; empty where the targets are classes.
        scores: (B,K) float32, the targets' logits.
        logits: (B,classes) float32, or whatever the model puts out for callable targets.
        activation: makes probabilities of the logits, a key of `capture.scoring.ACTIVATIONS`.
        out_of_range: (B,) bool: images with a target that is not a class of the model; None: there is none.
        runner: the model around the layer.
        finer: an earlier layer with larger maps, for methods that look at two layers; None for others.
        contrasted: whether the gradients are those of the classes' scores against all others, see
            `cfcam_gpu.capture.contrast`.
        single: whether one target per image was asked for, so that results have no axis K.

    Example:
        >>> from cfcam_gpu import CFCAM
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten())
        >>> features = CFCAM(model, "1", method="gradcam").features(torch.rand(2, 3, 8, 8), targets=[0, 5])
        >>> features.classes.tolist(), features.logits.shape
        ([[0], [5]], torch.Size([2, 144]))
    """

    images: Tensor
    targets: Tensor | None
    absent: Tensor | None
    functions: tuple[tuple[ScoreFunction, ...], ...]
    scores: Tensor
    logits: Tensor
    activation: str
    out_of_range: Tensor | None
    runner: ModelRunner
    finer: LayerFeatures | None
    single: bool
    contrasted: bool = False

    @property
    def k(self) -> int:
        return self.scores.shape[1]

    @property
    def classes(self) -> Tensor:
        """The targets, (B,K) int64.

        Raises:
            TargetError: the targets are functions.
        """
        if self.targets is None:
            raise TargetError("the targets must be classes here, got functions; pass class indices")
        return self.targets

    @property
    def probabilities(self) -> Tensor:
        """(B,classes) float32 in [0,1], of the logits."""
        return probabilities(self.logits, self.activation)

    def scores_of(self, logits: Tensor, rows: Tensor) -> Tensor:
        """(N,K) target scores of logits (N,classes), the n-th of which belong to image rows[n]."""
        if self.targets is None:
            return scores_by([self.functions[row] for row in rows.tolist()], logits)
        return logits.gather(1, self.targets[rows].clamp(0, logits.shape[1] - 1))

    def confidences_of(self, logits: Tensor, rows: Tensor) -> Tensor:
        """As `scores_of`, the targets' probabilities; for targets that are functions, their values."""
        found = logits if self.targets is None else probabilities(logits, self.activation)
        return self.scores_of(found, rows)

    def gradients_of(self, images: Tensor) -> Tensor:
        """(B,K,C,h,w) float32 gradients of the same targets at other images (B,3,H,W)."""
        return self.runner.capture(images, self.asked).gradients

    def captured_again(self, finer: TargetLayer | None, *, contrast: bool) -> Self:
        """The same images and targets, captured now with a finer layer, or with contrasted scores, or without."""
        captured = self.runner.capture(self.images, self.asked, finer=finer, contrast=contrast)
        return self.with_capture(captured, self.images)

    def with_capture(self, captured: Capture, images: Tensor) -> Self:
        """The same targets, as they were captured of images (B,3,H,W): these images once more, or changed ones."""
        return replace(
            self,
            images=images,
            activations=captured.activations.float(),
            gradients=captured.gradients,
            finer=captured.finer,
            contrasted=captured.contrasted,
            scores=captured.scores,
            logits=captured.logits,
            runner=replace(self.runner, layer=captured.layer, calls=captured.call),
        )

    def at_image_size(self, maps: Tensor) -> Tensor:
        """Maps (N,1,h,w) of the layer, upsampled to the size of the images: (N,1,H,W), or (N,1,D,H,W) of volumes."""
        layout, size = self.runner.layer.layout, self.images.shape[2:]
        if isinstance(layout, Slices):
            volumes = maps.unflatten(2, layout.sides[:2])
            return F.interpolate(volumes, size, mode="trilinear", align_corners=False)
        return F.interpolate(maps, size, mode="bilinear", align_corners=False)

    def at_finer_layer(self) -> Features:
        """The same images and targets at the finer layer.

        Raises:
            ConfigError: it was not captured.
        """
        if self.finer is None:
            raise ConfigError("a finer layer is needed and was not captured; use CFCAM.explain")
        return Features(
            activations=self.finer.activations.float(),
            gradients=self.finer.gradients,
            size=self.size,
            config=self.config,
            engine=self.engine,
        )

    @property
    def asked(self) -> Targets:
        """The targets as `CFCAM` takes them."""
        return list(self.functions) if self.targets is None else self.targets

    def _seed_values(self) -> Tensor:
        return self.images
