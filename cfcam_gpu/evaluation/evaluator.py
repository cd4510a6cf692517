"""From decoded images to rows with the map and the metrics of every method."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cfcam_gpu._utils.checks import Check
from cfcam_gpu.config import CFCAMConfig
from cfcam_gpu.dataset.execution.batch_explainer import (
    BatchExplainer,
    Item,
    Wanted,
    error_columns,
    rows_of,
)
from cfcam_gpu.dataset.execution.transfers import stacked_pixels
from cfcam_gpu.dataset.store.schema import Row
from cfcam_gpu.errors import ConfigError
from cfcam_gpu.evaluation.cost import images_per_second
from cfcam_gpu.evaluation.maps import BatchMaps, normaliser
from cfcam_gpu.evaluation.options import EvaluationOptions
from cfcam_gpu.explainer import CFCAM
from cfcam_gpu.explanation import Explanation
from cfcam_gpu.methods import METHODS
from cfcam_gpu.methods.features import CapturedFeatures
from cfcam_gpu.metrics.base import Case, Column, Metric


class Evaluator(BatchExplainer):
    """Explains and measures batches of decoded images by several methods; the model is captured once for all.

    Args:
        arguments: those of `BatchExplainer`; its `cam` captures for all methods.
        options: the methods to compare, and the settings of the metrics.
        metrics: what to measure.
        on_cost: called once with the images per second of each method, measured on the first batch; None: the
            speed is not measured.

    Attributes, after `warm_up`:
        cams: from the label of each method to what explains by it.
    """

    def __init__(
        self,
        *arguments: Any,
        options: EvaluationOptions,
        metrics: Sequence[Metric],
        on_cost: Callable[[dict[str, float]], None] | None = None,
    ) -> None:
        super().__init__(*arguments)
        if self.explains_several:
            raise ConfigError("an evaluation measures one class an image, got several; give one as target")
        self.transfers = None  # the metrics read values all along
        self.options = options
        self.metrics = metrics
        self.on_cost = on_cost
        self.needs_masks = any(metric.needs_masks for metric in metrics)
        self.normalise = normaliser(self.loaded.preprocess)
        self.cams: dict[str, CFCAM] = {}

    def warm_up(self) -> None:
        """As `BatchExplainer.warm_up`; the layer chosen there is the layer of every method.

        All maps are stored with the shape of the largest.
        """
        # A method that cannot run is refused before the model runs.
        for name, config in self.options.methods_by_label().values():
            self._cam(name, config, self.options.layer)
        super().warm_up()
        self.cams = {
            label: self._cam(name, config, self.cam.layer_name)
            for label, (name, config) in self.options.methods_by_label().items()
        }
        for cam in self.cams.values():
            if cam.method.needs_finer or cam.has_views:
                images = self.loaded.preprocess.normalise(self.noise().to(self.device))
                h, w = cam(images).grid.shape[1:]
                self.map_shape = max(self.map_shape[0], h), max(self.map_shape[1], w)

    def _cam(self, name: str, config: CFCAMConfig, layer: str | None) -> CFCAM:
        engine = self.options.engine if METHODS[name].takes(self.options.engine) else "auto"
        finer = self.options.finer_layer if METHODS[name].needs_finer else None
        return CFCAM(
            self.cam.model,
            layer,
            config,
            engine,
            "flag",
            name,
            finer,
            self.options.layout,
            activation=self.options.activation,
            output=self.options.output,
            scales=self.options.scales,
            flip=self.options.flip,
            aug_smooth=self.options.aug_smooth,
        )

    def explain_batch(
        self, items: Sequence[Item], targets: Sequence[Wanted] | None, check: Check
    ) -> list[Row]:
        """As `BatchExplainer.explain_batch`; the rows hold the columns of each method under `methods`."""
        pixels = stacked_pixels([view for view, _ in items], self.device)
        features = self.cam.features(
            self.loaded.preprocess.normalise(pixels),
            None if targets is None else self._targets(targets),
            check=check,
        )
        explained = {label: _explained(cam, features, check) for label, cam in self.cams.items()}
        problems = _problems(explained, len(items))
        if any(problems):
            return self._without_problems(items, targets, problems, check)
        self._measure_cost(features, check)
        cases = self._cases(items, pixels, features, explained, check)
        by_method = {
            label: rows_of(self._measured(case, check) | _map_columns(explained[label], self.map_shape))
            for label, case in cases.items()
        }
        columns = self.prediction_columns(features.probabilities, features.classes[:, 0])
        columns["masked"] = _have_masks(next(iter(cases.values())))
        columns["status"] = ["ok"] * len(items)
        columns["blank"] = [any(rows[i]["blank"] for rows in by_method.values()) for i in range(len(items))]
        columns["methods"] = [
            {label: rows[i] for label, rows in by_method.items()} for i in range(len(items))
        ]
        return rows_of(columns)

    def _without_problems(
        self,
        items: Sequence[Item],
        targets: Sequence[Wanted] | None,
        problems: Sequence[str | None],
        check: Check,
    ) -> list[Row]:
        """The rows where a method cannot explain some images: they are errors of all methods.

        So all methods are compared on the same images.
        """
        good = [i for i, problem in enumerate(problems) if problem is None]
        good_targets = None if targets is None else [targets[i] for i in good]
        rows = iter(self.explain_batch([items[i] for i in good], good_targets, check) if good else [])
        return [
            error_columns("InvalidImagesError", problem) if problem else next(rows) for problem in problems
        ]

    def _measure_cost(self, features: CapturedFeatures, check: Check) -> None:
        if self.on_cost is not None:
            self.on_cost(images_per_second(self.cams, features.images, features.classes[:, 0], check))
            self.on_cost = None

    def _cases(
        self,
        items: Sequence[Item],
        pixels: Tensor,
        features: CapturedFeatures,
        explained: dict[str, Explanation],
        check: Check,
    ) -> dict[str, Case]:
        """The case of each method; the cases share all but the heatmaps."""
        shared: dict[str, Any] = {
            "images": pixels.permute(0, 3, 1, 2).float() / 255,
            "targets": features.classes[:, 0],
            "clean": features.probabilities.gather(1, features.classes)[:, 0],
            "activation": features.activation,
            "seeds": torch.tensor([sample_seed(sample.sample_id) for _, sample in items]),
            "model": self._model(features),
            "masks": _masks(items, pixels),
            "check": check,
        }
        return {
            label: Case(
                heatmaps=explanation.heatmap,
                blank=explanation.blank,
                maps=BatchMaps(self.cams[label], features, self.normalise, self.batch_size, check),
                **shared,
            )
            for label, explanation in explained.items()
        }

    def _model(self, features: CapturedFeatures) -> Callable[[Tensor], Tensor]:
        def model(images: Tensor) -> Tensor:
            return features.runner.logits(self.normalise(images).to(features.images.dtype))

        return model

    def _measured(self, case: Case, check: Check) -> dict[str, list[Any]]:
        """The columns of the metrics, each with one value for each image.

        The value is None where it is not defined, or where the metric needs a mask and the image has none.
        """
        columns: dict[str, list[Any]] = {}
        have_masks = _have_masks(case)
        for metric in self.metrics:
            check()
            measured = have_masks if metric.needs_masks else [True] * len(case.images)
            values = metric(case, self.options.measuring) if any(measured) else {}
            for column in metric.columns:
                listed = _listed(values.get(column.name), column, len(case.images))
                columns[column.name] = [v if m else None for v, m in zip(listed, measured, strict=True)]
        return columns


def _explained(cam: CFCAM, features: CapturedFeatures, check: Check) -> Explanation:
    check()
    return cam.explain(features)


def sample_seed(sample_id: str) -> int:
    """A number from 0 to 2^63 - 1 that depends only on the id of a sample.

    Example:
        >>> sample_seed("cat.png") == sample_seed("cat.png"), sample_seed("cat.png") == sample_seed("dog.png")
        (True, False)
    """
    return int.from_bytes(hashlib.sha256(sample_id.encode()).digest()[:8], "big") >> 1


def _map_columns(explanation: Explanation, map_shape: tuple[int, int]) -> dict[str, list[Any]]:
    """The columns `blank` and `grid`; smaller maps are upsampled to the common shape."""
    grid = explanation.grid.float()
    if grid.shape[1:] != map_shape:
        grid = F.interpolate(grid[:, None], size=map_shape, mode="bilinear", align_corners=False)[:, 0]
    return {"blank": explanation.blank.tolist(), "grid": list(grid.cpu().numpy())}


def _listed(values: Tensor | None, column: Column, count: int) -> list[Any]:
    """The values (B,), or (B,S) of a curve, one for each image; None where all values of an image are NaN."""
    if values is None:
        return [None] * count
    on_cpu = values.float().cpu()
    listed = list(on_cpu.numpy()) if column.curve else on_cpu.tolist()
    undefined = on_cpu.isnan().view(count, -1).all(1).tolist()
    return [None if missing else value for value, missing in zip(listed, undefined, strict=True)]


def _have_masks(case: Case) -> list[bool]:
    """Whether each image has a mask."""
    if case.masks is None:
        return [False] * len(case.images)
    masked: list[bool] = case.masks.flatten(1).any(1).tolist()
    return masked


def _masks(items: Sequence[Item], pixels: Tensor) -> Tensor | None:
    """(B,H,W) bool on the device of pixels (B,H,W,3); None where no image has a mask."""
    if all(view.mask is None for view, _ in items):
        return None
    none = np.zeros(pixels.shape[1:3], bool)
    masks = np.stack([none if view.mask is None else view.mask for view, _ in items])
    return torch.from_numpy(masks).to(pixels.device)


def _problems(explained: dict[str, Explanation], count: int) -> list[str | None]:
    """For each image the first problem of a method with it; None where all methods can explain it."""
    problems: list[str | None] = [None] * count
    for label, explanation in explained.items():
        for i, problem in enumerate(explanation.problems):
            if problem is not None and problems[i] is None:
                problems[i] = f"{label}: {problem}"
    return problems
