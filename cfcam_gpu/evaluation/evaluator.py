"""Views of images in, rows with every method's map and metrics out."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cfcam_gpu._utils.checks import Check
from cfcam_gpu.dataset.execution.batch_explainer import BatchExplainer, Item, error_columns, rows_of
from cfcam_gpu.dataset.store.schema import Row
from cfcam_gpu.evaluation.cost import images_per_second
from cfcam_gpu.evaluation.maps import BatchMaps, normaliser
from cfcam_gpu.evaluation.options import EvaluationOptions
from cfcam_gpu.explainer import CFCAM
from cfcam_gpu.explanation import Explanation
from cfcam_gpu.methods import METHODS
from cfcam_gpu.methods.features import CapturedFeatures
from cfcam_gpu.metrics.base import Case, Column, Metric

log = logging.getLogger("cfcam_gpu")


class Evaluator(BatchExplainer):
    """Measures batches of views by several methods; the model is captured once for all of them.

    Args:
        options, metrics: what to compare and to measure.
        on_cost: told the methods' images per second, measured on the first batch; None: not measured.
        (the others): see `BatchExplainer`; `cam` captures.
    """

    def __init__(
        self,
        *arguments: Any,
        options: EvaluationOptions,
        metrics: Sequence[Metric],
        on_cost: Callable[[dict[str, float]], None] | None = None,
    ) -> None:
        super().__init__(*arguments)
        self.options = options
        self.metrics = metrics
        self.on_cost = on_cost
        self.needs_masks = any(metric.needs_masks for metric in metrics)
        self.normalise = normaliser(self.loaded.preprocess)
        self.cams: dict[str, CFCAM] = {}

    def warm_up(self) -> None:
        """As that of `BatchExplainer`; the layer chosen there is every method's."""
        for name, config in self.options.cams().values():  # refuses what cannot run before anything runs
            self._cam(name, config, self.options.layer)
        super().warm_up()
        self.cams = {
            label: self._cam(name, config, self.cam.layer_name)
            for label, (name, config) in self.options.cams().items()
        }
        for cam in self.cams.values():
            if cam.method.needs_finer:  # all maps are stored at the largest grid
                images = self.loaded.preprocess.normalise(self.noise().to(self.device))
                rows, columns = cam(images).grid.shape[1:]
                self.map_shape = max(self.map_shape[0], rows), max(self.map_shape[1], columns)

    def _cam(self, name: str, config: Any, layer: str | None) -> CFCAM:
        engine = self.options.engine if METHODS[name].has_engines else "auto"
        finer = self.options.finer_layer if METHODS[name].needs_finer else None
        return CFCAM(self.cam.model, layer, config, engine, "flag", name, finer)

    def explain_batch(self, items: Sequence[Item], targets: list[int] | None, check: Check) -> list[Row]:
        """Rows' columns: what the model says, and under `methods` each method's columns."""
        pixels = torch.from_numpy(np.stack([view.pixels for view, _ in items])).to(self.device)
        features = self.cam.features(self.loaded.preprocess.normalise(pixels), targets, check=check)
        explained = {label: _explained(cam, features, check) for label, cam in self.cams.items()}
        problems = _problems(explained, len(items))
        if any(problems):
            return self._good_only(items, targets, problems, check)
        self._measure_cost(features, check)
        cases = self._cases(items, pixels, features, explained, check)
        by_method = {
            label: rows_of(self._measured(case, check) | _map_columns(explained[label], self.map_shape))
            for label, case in cases.items()
        }
        masks = next(iter(cases.values())).masks
        told = self.prediction_columns(features.logits, next(iter(cases.values())).targets)
        told["masked"] = [False] * len(items) if masks is None else masks.flatten(1).any(1).tolist()
        told["status"] = ["ok"] * len(items)
        told["blank"] = [any(rows[i]["blank"] for rows in by_method.values()) for i in range(len(items))]
        told["methods"] = [{label: rows[i] for label, rows in by_method.items()} for i in range(len(items))]
        return rows_of(told)

    def _good_only(
        self,
        items: Sequence[Item],
        targets: list[int] | None,
        problems: Sequence[str | None],
        check: Check,
    ) -> list[Row]:
        """Errors for images that a method cannot explain: all methods are compared on the same images."""
        good = [i for i, problem in enumerate(problems) if problem is None]
        asked = None if targets is None else [targets[i] for i in good]
        rows = iter(self.explain_batch([items[i] for i in good], asked, check) if good else [])
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
        """Each method's case; they share all but the maps."""
        shared: dict[str, Any] = {
            "images": pixels.permute(0, 3, 1, 2).float() / 255,
            "targets": features.classes[:, 0],
            "clean": features.logits.softmax(1).gather(1, features.classes)[:, 0],
            "seeds": torch.tensor([sample_seed(sample.sample_id) for _, sample in items]),
            "model": self._model(features),
            "masks": _masks(items, pixels),
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
        """The metrics' columns, each with one value per image: None where a metric needs a mask and there is none."""
        found: dict[str, list[Any]] = {}
        count = len(case.images)
        masked = [False] * count if case.masks is None else case.masks.flatten(1).any(1).tolist()
        for metric in self.metrics:
            check()
            measured = masked if metric.needs_masks else [True] * count
            values = metric(case, self.options.measuring) if any(measured) else {}
            for column in metric.columns:
                listed = _listed(values.get(column.name), column, count)
                found[column.name] = [v if m else None for v, m in zip(listed, measured, strict=True)]
        return found


def _explained(cam: CFCAM, features: CapturedFeatures, check: Check) -> Explanation:
    check()
    return cam.explain(features)


def sample_seed(sample_id: str) -> int:
    """A number from 0 to 2^63 - 1 that depends on the id alone."""
    return int.from_bytes(hashlib.sha256(sample_id.encode()).digest()[:8], "big") >> 1


def _map_columns(explanation: Explanation, size: tuple[int, int]) -> dict[str, list[Any]]:
    grid = explanation.grid.float()
    if grid.shape[1:] != size:
        grid = F.interpolate(grid[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    return {"blank": explanation.blank.tolist(), "grid": list(grid.cpu().numpy())}


def _listed(values: Tensor | None, column: Column, count: int) -> list[Any]:
    """A metric's values (B,), or (B,S) of a curve, image by image; None where it is not defined: all NaN."""
    if values is None:
        return [None] * count
    on_cpu = values.float().cpu()
    listed = list(on_cpu.numpy()) if column.curve else on_cpu.tolist()
    undefined = on_cpu.isnan().view(count, -1).all(1).tolist()
    return [None if missing else value for value, missing in zip(listed, undefined, strict=True)]


def _masks(items: Sequence[Item], pixels: Tensor) -> Tensor | None:
    """(B,H,W) bool on the device of pixels (B,H,W,3); None where no image has a mask."""
    if all(view.mask is None for view, _ in items):
        return None
    none = np.zeros(pixels.shape[1:3], bool)
    masks = np.stack([none if view.mask is None else view.mask for view, _ in items])
    return torch.from_numpy(masks).to(pixels.device)


def _problems(explained: dict[str, Explanation], count: int) -> list[str | None]:
    """What keeps a method from explaining each image, None where nothing does."""
    found: list[str | None] = [None] * count
    for label, explanation in explained.items():
        for i, problem in enumerate(explanation.problems):
            if problem is not None and found[i] is None:
                found[i] = f"{label}: {problem}"
    return found
