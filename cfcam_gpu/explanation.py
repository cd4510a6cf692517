"""The result of a call: heatmaps, what they were made from, and which images could not be explained."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy.typing as npt
import torch
from torch import Tensor

from cfcam_gpu._utils.messages import first_line
from cfcam_gpu._utils.optional import require
from cfcam_gpu.capture.scoring import probabilities
from cfcam_gpu.cfcam.volumes import volume_heatmap
from cfcam_gpu.config import NOISE
from cfcam_gpu.errors import ConfigError, InputError, InvalidImagesError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: The file in which an explanation is saved.
_FILE = "explanation.pt"

#: Most heatmaps of a figure and of a notebook's output.
_MOST_PICTURES = 16


class Problem(IntEnum):
    """What can be wrong with one image of a batch; `Explanation.status` holds the number, 0 for a good image.

    Example:
        >>> Problem(3).name, Problem(3).sentence
        ('TARGET_OUT_OF_RANGE', 'a target is not a class of the model')
    """

    ACTIVATIONS_NOT_FINITE = 1
    GRADIENTS_NOT_FINITE = 2
    TARGET_OUT_OF_RANGE = 3
    ZERO_GRADIENT = 4
    MAP_NOT_FINITE = 5

    @property
    def sentence(self) -> str:
        """The problem in words, to stand behind "image 3: "."""
        return _SENTENCES[self]


_SENTENCES = {
    Problem.ACTIVATIONS_NOT_FINITE: "the layer's activations contain NaN or Inf",
    Problem.GRADIENTS_NOT_FINITE: "the gradients contain NaN or Inf",
    Problem.TARGET_OUT_OF_RANGE: "a target is not a class of the model",
    Problem.ZERO_GRADIENT: (
        "the gradient of the target score is zero everywhere at the layer, so nothing can be explained"
    ),
    Problem.MAP_NOT_FINITE: (
        "the map contains NaN or Inf: the earlier layer, or the model run again on modified images, "
        "produced them"
    ),
}


@dataclass(frozen=True, repr=False, eq=False)
class Explanation:
    """Heatmaps of B images and what they were made from; there is an axis K if targets are (B,K).

    Attributes:
        heatmap: (B,H,W) or (B,K,H,W) float32 in [0,1], each divided by its own maximum; zeros where blank. Of volumes
            (B,D,H,W) or (B,K,D,H,W), and so on for `grid`.
        grid: (B,h,w) or (B,K,h,w) float32, the saliency map at the layer's resolution, raw scale, not negative.
        peak: (B,) or (B,K) float32, the maximum of the upsampled grid, by which the heatmap was divided;
            0 where blank.
        blank: (B,) or (B,K) bool: the map has no positive evidence, or the image has a problem.
        labels: (B,C) int64: cluster 0, 1, …; -1 noise; -2 dominant. This, n_clusters, eps and
            noise_fraction are None for methods that do not cluster.
        n_clusters: (B,) int64.
        eps: (B,) float64 (float32 on devices without it), DBSCAN's eps, in units of the activations.
        status: (B,) int64, number of a `Problem`; 0 for a good image.
        engine: name of the engine that ran.
        logits: (B,classes) float32, of a model with one output z (B,2): -z and z. None from `explain_activations`;
            what the model puts out for callable targets.
        activation: `softmax` or `sigmoid`, which makes `probabilities` of the logits; None as for the logits.
        targets: (B,) or (B,K) int64; None for callable targets and from `explain_activations`. -1 in places without
            a target, where an image has fewer than others; the map there is blank.

    Example:
        >>> from cfcam_gpu import explain_activations
        >>> activations = torch.tensor([0.0, 0.0, 1.0, 9.0]).view(1, 4, 1, 1)
        >>> result = explain_activations(activations, torch.ones(1, 4, 1, 1), size=(2, 2), engine="torch")
        >>> result.labels, result.peak, result.noise_fraction, result.problems
        (tensor([[ 0,  0, -1, -2]]), tensor([9.]), tensor([0.2500]), [None])
    """

    heatmap: Tensor
    grid: Tensor
    peak: Tensor
    blank: Tensor
    labels: Tensor | None
    n_clusters: Tensor | None
    eps: Tensor | None
    status: Tensor
    engine: str
    logits: Tensor | None = None
    activation: str | None = None
    targets: Tensor | None = None

    @property
    def noise_fraction(self) -> Tensor | None:
        """(B,) float32 in [0,1]: the fraction of the channels that are noise; None as for `labels`."""
        return None if self.labels is None else (self.labels == NOISE).float().mean(1)

    @property
    def probabilities(self) -> Tensor | None:
        """(B,classes) float32 in [0,1], by the model's activation; None where there are no logits of classes."""
        if self.logits is None or self.activation is None or self.logits.ndim != 2:
            return None
        return probabilities(self.logits, self.activation)

    @property
    def problems(self) -> list[str | None]:
        """For each image what is wrong with it, None for a good one. Waits for the device."""
        return [Problem(code).sentence if code else None for code in self.status.tolist()]

    def __len__(self) -> int:
        """The number of images."""
        return len(self.status)

    def __getitem__(
        self, which: SupportsIndex | slice | Sequence[int] | Tensor | npt.NDArray[Any]
    ) -> Explanation:
        """The explanation of one image, with B = 1, or of several: a slice, indices or (B,) bools.

        Example:
            >>> from cfcam_gpu import explain_activations
            >>> result = explain_activations(torch.ones(3, 4, 1, 1), torch.ones(3, 4, 1, 1), (2, 2), method="gradcam")
            >>> len(result), len(result[-1]), len(result[1:]), len(result[[0, 2]])
            (3, 1, 2, 2)
        """
        if hasattr(which, "__index__") and not getattr(which, "ndim", 0):  # arrays and tensors have it too
            number = operator.index(which)
            if not -len(self) <= number < len(self):
                raise IndexError(f"the explanation has {len(self)} images, got index {number}")
            which = slice(number % len(self), number % len(self) + 1)
        index: Any = list(which) if isinstance(which, (list, tuple)) else which
        return self._changed(lambda values: values[index] if len(values) == len(self) else values)

    def __iter__(self) -> Iterator[Explanation]:
        """The explanations of the images, one by one."""
        return (self[i] for i in range(len(self)))

    def to(self, device: torch.device | str) -> Explanation:
        """The explanation with its tensors on a device."""
        return self._changed(lambda values: values.to(device))

    def cpu(self) -> Explanation:
        """The explanation with its tensors in the CPU's memory."""
        return self.to("cpu")

    def numpy(self) -> dict[str, npt.NDArray[Any]]:
        """The tensors as arrays, by their names; those that are None are left out."""
        return {name: values.detach().cpu().numpy() for name, values in self._tensors().items()}

    def _tensors(self) -> dict[str, Tensor]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def _changed(self, change: Callable[[Tensor], Tensor]) -> Explanation:
        return replace(self, **{name: change(values) for name, values in self._tensors().items()})  # type: ignore[arg-type]

    def __repr__(self) -> str:
        size = "x".join(map(str, self.heatmap.shape[self.blank.ndim :]))
        several = f", {self._maps_each} targets each" if self.blank.ndim == 2 else ""
        unit = "image" if len(self) == 1 else "images"
        return f"Explanation({len(self)} {unit}, heatmaps {size}{several}, engine {self.engine}, {self.heatmap.device})"

    @property
    def _maps_each(self) -> int:
        return self.blank.shape[1] if self.blank.ndim == 2 else 1

    def _repr_html_(self) -> str:
        """Thumbnails of the first heatmaps, for notebooks; of a volume the slice with the maximum."""
        from cfcam_gpu.images.figures import thumbnails

        maps, captions, _ = self._pictures(_MOST_PICTURES)
        total = self.blank.numel()
        more = f"; the first {len(maps)} of {total} heatmaps" if total > len(maps) else ""
        return thumbnails(maps, captions, f"{self!r}{more}")

    def plot(self, images: Any = None) -> Figure:
        """A Matplotlib figure of the first 16 heatmaps; of a volume the slice with the maximum.

        Args:
            images: pictures to draw them over, one an image of the batch, as `cfcam_gpu.overlay` takes them; tensors
                may be normalised as the model takes them. Of one image also the picture alone. Of volumes (C,D,H,W)
                or (D,H,W) arrays or tensors.

        Raises:
            ConfigError: not as many pictures as images, or no image.
            MissingPackageError: Matplotlib is not installed.
        """
        from cfcam_gpu.images.figures import figure

        maps, captions, slices = self._pictures(_MOST_PICTURES)
        if not maps:
            raise ConfigError("the explanation has no images, so there is nothing to draw")
        backdrops = None
        if images is not None:
            pictures = self._one_each(images)
            backdrops = [
                pictures[i // self._maps_each]
                if depth is None
                else pictures[i // self._maps_each][..., depth, :, :]
                for i, depth in enumerate(slices)
            ]
        return figure(maps, captions, backdrops)

    def _one_each(self, images: Any) -> Sequence[Any]:
        """A picture for each image; one picture alone is a sequence of one."""
        axes_of_batch = 2 + self.grid.ndim - self.blank.ndim
        alone = len(self) == 1 and getattr(images, "ndim", axes_of_batch) < axes_of_batch
        pictures: Sequence[Any] = [images] if alone or hasattr(images, "convert") else images
        if len(pictures) != len(self):
            raise ConfigError(
                f"one picture for each of the {len(self)} images is needed, got {len(pictures)}"
            )
        return pictures

    def show(self, images: Any = None) -> None:
        """As `plot`, and shows the figure."""
        self.plot(images)
        require("matplotlib.pyplot", "plots").show()

    def _pictures(self, most: int) -> tuple[list[npt.NDArray[Any]], list[str], list[int | None]]:
        """The first heatmaps (H,W), what is said under each, and which slice of its volume each is.

        Under a heatmap stand the class, its probability, and what is wrong.
        """
        per_image = self._maps_each
        first = self[: -(-most // per_image)].cpu()
        maps = first.heatmap.flatten(0, self.blank.ndim - 1)[:most]
        slices: list[int | None] = [None] * len(maps)
        if maps.ndim == 4:
            slices = maps.amax((-2, -1)).argmax(-1).tolist()
            maps = maps[range(len(maps)), slices]
        blank = first.blank.flatten()
        targets = None if first.targets is None else first.targets.flatten()
        chances, problems = first.probabilities, first.problems

        def caption(i: int) -> str:
            image = i // per_image
            words = [f"image {image}"]
            words += [] if slices[i] is None else [f"slice {slices[i]}"]
            if targets is not None:
                words.append(f"class {int(targets[i])}")
                if chances is not None and targets[i] >= 0:
                    words.append(f"{float(chances[image, targets[i]]):.0%}")
            words += ["blank"] if blank[i] else []
            return ", ".join([*words, *filter(None, [problems[image]])])

        return list(maps.numpy()), [caption(i) for i in range(len(maps))], slices

    def save(self, folder: str | Path) -> Path:
        """Write the explanation to `explanation.pt` in a folder, which is made; the file's path.

        Example:
            >>> import tempfile
            >>> from cfcam_gpu import explain_activations
            >>> result = explain_activations(torch.ones(3, 4, 1, 1), torch.ones(3, 4, 1, 1), (2, 2), method="gradcam")
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     Explanation.load(result.save(folder))
            Explanation(3 images, heatmaps 2x2, engine torch, cpu)
        """
        path = Path(folder) / _FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {**self.cpu()._tensors(), "engine": self.engine, "activation": self.activation}
        torch.save(state, path)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Explanation:
        """The explanation that `save` wrote to a folder or file, in the CPU's memory; no code of the file runs.

        Raises:
            InputError: no such file, or another one.
        """
        path = Path(path)
        path = path / _FILE if path.is_dir() else path
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            return cls(**{field.name: state.get(field.name) for field in fields(cls)})
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
        except Exception as error:
            raise InputError(f"{path} is no saved explanation: {first_line(error)}") from error


def status_of(masks: dict[Problem, Tensor]) -> Tensor:
    """(B,) int64: the lowest problem whose mask (B,) bool holds for the image, 0 where none does.

    Example:
        >>> masks = {Problem.ZERO_GRADIENT: torch.tensor([True, True, False])}
        >>> masks[Problem.ACTIVATIONS_NOT_FINITE] = torch.tensor([True, False, False])
        >>> status_of(masks)
        tensor([1, 4, 0])
    """
    status = torch.zeros_like(next(iter(masks.values())), dtype=torch.int64)
    for problem in sorted(masks, reverse=True):
        status.masked_fill_(masks[problem], int(problem))
    return status


def without_invalid(result: Explanation) -> Explanation:
    """The result (B,K,…) with blank maps for the images that have a problem."""
    bad = result.status != 0
    return replace(
        result,
        heatmap=result.heatmap.masked_fill(bad[:, None, None, None], 0),
        grid=result.grid.masked_fill(bad[:, None, None, None], 0),
        peak=result.peak.masked_fill(bad[:, None], 0),
        blank=result.blank | bad[:, None],
    )


def without_absent(result: Explanation, absent: Tensor) -> Explanation:
    """The result (B,K,…) with target -1 and a blank map in the places without a target, `absent` (B,K) bool."""
    assert result.targets is not None
    return replace(
        result,
        heatmap=result.heatmap.masked_fill(absent[:, :, None, None], 0),
        grid=result.grid.masked_fill(absent[:, :, None, None], 0),
        peak=result.peak.masked_fill(absent, 0),
        blank=result.blank | absent,
        targets=result.targets.masked_fill(absent, -1),
    )


def finished(result: Explanation, *, single: bool, on_invalid: str) -> Explanation:
    """The result as the caller gets it.

    Args:
        result: with an axis K.
        single: whether the caller has one target for each image, without an axis K.
        on_invalid: `raise` or `flag`, see `CFCAM`.

    Raises:
        InvalidImagesError: an image has a problem and `on_invalid` is `raise`.
    """
    result = _of_one_target(result) if single else result
    return _raise_invalid(result) if on_invalid == "raise" else result


def unfolded(result: Explanation, sides: Sequence[int], size: Sequence[int]) -> Explanation:
    """The result of volumes, whose grids have their slices below each other, (…,d·h,w).

    Args:
        sides: (d,h,w) of the grids; size: (D,H,W) of the heatmaps.
    """
    grid = result.grid.unflatten(-2, tuple(sides[:2]))
    heatmap, peak = volume_heatmap(grid, tuple(size))
    return replace(result, grid=grid, heatmap=heatmap, peak=peak)


def averaged(results: Sequence[Explanation]) -> Explanation:
    """One explanation of the same images and targets by several layers, or by several runs of one.

    Each grid is divided by its maximum and upsampled; the mean of the maps is divided by its own maximum. `grid` is
    the mean of the divided grids, at the resolution of the largest. There are no clusters.

    Source: pytorch-grad-cam, which averages the maps of its `target_layers` so, after taking the minimum off each.

    Example:
        >>> from cfcam_gpu import explain_activations
        >>> maps = torch.tensor([[1.0, 0.0], [0.0, 0.5]]).view(2, 1, 1, 1, 2)
        >>> results = [explain_activations(a, torch.ones(1, 1, 1, 2), (1, 2), method="gradcam") for a in maps]
        >>> averaged(results).heatmap
        tensor([[[1., 1.]]])
    """
    first = results[0]
    axes = tuple(range(first.blank.ndim, first.grid.ndim))
    highest = [_nonzero(result.grid.amax(axes, keepdim=True)) for result in results]
    maps = [
        result.heatmap * (result.peak.view(high.shape) / high)
        for result, high in zip(results, highest, strict=True)
    ]
    mean = torch.stack(maps).mean(0)
    peak = mean.amax(axes, keepdim=True)
    largest = max((result.grid.shape[axes[0] :] for result in results), key=math.prod)
    grids = [_resized(result.grid / high, largest) for result, high in zip(results, highest, strict=True)]
    statuses = torch.stack([result.status for result in results])
    status = statuses.gather(0, (statuses != 0).int().argmax(0)[None])[0]
    return replace(
        first,
        heatmap=mean / _nonzero(peak),
        grid=torch.stack(grids).mean(0),
        peak=peak.view(first.peak.shape),
        blank=torch.stack([result.blank for result in results]).all(0),
        labels=None,
        n_clusters=None,
        eps=None,
        status=status,
    )


def _nonzero(peak: Tensor) -> Tensor:
    return torch.where(peak > 0, peak, 1)


def _resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    flat = maps.reshape(1, -1, *maps.shape[-len(size) :])
    mode = "bilinear" if len(size) == 2 else "trilinear"
    resized = torch.nn.functional.interpolate(flat, tuple(size), mode=mode, align_corners=False)
    return resized.view(*maps.shape[: -len(size)], *size)


def _of_one_target(result: Explanation) -> Explanation:
    """The result of K = 1 targets without the axis K."""
    targets = None if result.targets is None else result.targets[:, 0]
    maps = {name: getattr(result, name)[:, 0] for name in ("heatmap", "grid", "peak", "blank")}
    return replace(result, **maps, targets=targets)


def _raise_invalid(result: Explanation) -> Explanation:
    problems = {index: problem for index, problem in enumerate(result.problems) if problem}
    if problems:
        raise InvalidImagesError(problems)
    return result
