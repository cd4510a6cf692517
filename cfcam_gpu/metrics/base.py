"""What a metric takes (`Case`), what it returns (`Column`), and its entry in the table of metrics (`Metric`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Protocol

from cfcam_gpu._utils.checks import Check, never_ends
from cfcam_gpu.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from cfcam_gpu.metrics.options import MetricOptions


class MapMaker(Protocol):
    """Makes more heatmaps of a batch by one method, for metrics that disturb something.

    All heatmaps are (…,H,W) float32 in [0,1].
    """

    @property
    def gradients(self) -> Tensor | None:
        """(B,C,h,w) float32, the gradients of the undisturbed batch. None: the method uses no gradients."""

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
    """One batch of images with the heatmaps that one method made of it.

    Attributes:
        images: (B,3,H,W) float32 in [0,1], RGB, as the model sees them before normalisation.
        targets: (B,) int64, the explained classes.
        clean: (B,) float32 in [0,1], probability of the target on `images`.
        heatmaps: (B,H,W) float32 in [0,1].
        blank: (B,) bool, True for heatmaps that are zero everywhere.
        seeds: (B,) int64 on the CPU: each image has its own random numbers, whatever the batch around it.
        model: from images (N,3,H,W) in [0,1], any N, to logits (N,classes) float32, without gradients.
        activation: makes probabilities of the logits, a key of `cfcam_gpu.capture.scoring.ACTIVATIONS`.
        maps: makes more heatmaps by the same method; None where there is only the one of each image.
        masks: (B,H,W) bool, the object's pixels; an image without a True has no mask. None: no image has one.
        check: metrics call it between steps that take long; it may raise to end the measurement.
    """

    images: Tensor
    targets: Tensor
    clean: Tensor
    heatmaps: Tensor
    blank: Tensor
    seeds: Tensor
    model: Callable[[Tensor], Tensor]
    activation: str = "softmax"
    maps: MapMaker | None = None
    masks: Tensor | None = None
    check: Check = never_ends

    @property
    def map_maker(self) -> MapMaker:
        """`maps`, for metrics that need more heatmaps.

        Raises:
            ConfigError: it is None.
        """
        if self.maps is None:
            raise ConfigError(
                "this metric makes more heatmaps of the images; give the case `maps`, a MapMaker"
            )
        return self.maps

    @classmethod
    def of_heatmaps(
        cls,
        model: Callable[[Tensor], Tensor],
        images: Tensor,
        targets: Tensor,
        heatmaps: Tensor,
        *,
        activation: str = "auto",
        maps: MapMaker | None = None,
        masks: Tensor | None = None,
    ) -> Case:
        """A case from heatmaps that were made elsewhere; the image's place in the batch is its seed.

        The arguments are the attributes of those names; the model may also have one output, the logit of class 1,
        and `activation` be `auto` (see `cfcam_gpu.capture.Scoring`).

        Raises:
            ConfigError: an unknown activation.
            CaptureError: a softmax of one output, with which every metric of the probability would be constant.

        Example:
            >>> import torch
            >>> def model(images):  # two classes: class 0 scores the brightness
            ...     brightness = images.mean((1, 2, 3))
            ...     return torch.stack([brightness, 1 - brightness], 1)
            >>> case = Case.of_heatmaps(model, torch.ones(1, 3, 4, 4), torch.tensor([0]), torch.zeros(1, 4, 4))
            >>> case.clean, case.blank
            (tensor([0.7311]), tensor([True]))
        """
        from cfcam_gpu.capture.scoring import Scoring, probabilities  # PyTorch is imported here

        scoring = Scoring(activation)
        logits = model(images)
        activation = scoring.activation_of(logits)
        clean = probabilities(scoring.of_classes(logits), activation)
        return cls(
            images=images,
            targets=targets,
            clean=clean.gather(1, targets[:, None])[:, 0],
            heatmaps=heatmaps,
            blank=heatmaps.amax((1, 2)) <= 0,
            seeds=targets.new_tensor(range(len(targets)), device="cpu"),
            model=lambda changed: scoring.of_classes(model(changed)),
            activation=activation,
            maps=maps,
            masks=masks,
        )


@dataclass(frozen=True)
class Column:
    """A column that a metric fills: one number for each image, or one curve.

    Attributes:
        name: name of the column in the stored results.
        better: `higher`, `lower`, or empty where neither is better by itself.
        about: one sentence with unit and range.
        curve: whether the values are (B,S) instead of (B,).

    Example:
        >>> Column("pointing", "higher", "1 where the map's maximum lies on the object, else 0.").curve
        False
    """

    name: str
    better: str
    about: str
    curve: bool = False


@dataclass(frozen=True)
class Metric:
    """A metric by its name; calling it measures a case.

    It is implemented by the module `cfcam_gpu.metrics.NAME`: a function NAME, `COLUMNS` and `SOURCE`. The module
    is imported when one of them is first used, so that the names can be listed without PyTorch.

    Attributes:
        name: name of the metric on the command line, of its module and of the function in it.
        needs_masks: whether it measures only images that have a mask.

    Example:
        >>> drop = Metric("drop")
        >>> [column.name for column in drop.columns]
        ['average_drop', 'increase']
    """

    name: str
    needs_masks: bool = False

    def __call__(self, case: Case, options: MetricOptions) -> dict[str, Tensor]:
        """The values of every column of `columns` by its name.

        Returns:
            (B,) float32 for each column, (B,S) for a curve. NaN: not defined for that image.
        """
        values: dict[str, Tensor] = getattr(self._module, self.name)(case, options)
        return values

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns that the metric fills."""
        columns: tuple[Column, ...] = self._module.COLUMNS
        return columns

    @property
    def source(self) -> str:
        """Where the metric was published."""
        return str(self._module.SOURCE)

    @property
    def _module(self) -> ModuleType:
        return import_module(f"cfcam_gpu.metrics.{self.name}")
