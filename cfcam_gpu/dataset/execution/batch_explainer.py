"""Views of images in, the model's and the map's columns of their rows out."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch

from cfcam_gpu._utils.checks import Check, never_ends
from cfcam_gpu._utils.device import model_errors
from cfcam_gpu.dataset.execution.worker import View
from cfcam_gpu.dataset.sources.sample import Sample
from cfcam_gpu.dataset.store.schema import Row
from cfcam_gpu.errors import OutOfMemory, TargetError
from cfcam_gpu.explainer import CFCAM, Explanation
from cfcam_gpu.models import LoadedModel

log = logging.getLogger("cfcam_gpu")


class BatchExplainer:
    """Explains batches of views; where the memory does not hold one it goes on with half as many at once.

    `with_masks`: whether it uses the masks of samples, which are decoded then.

    Args:
        loaded: the model's preprocessing and class names; its model is on `device`.
        cam: explainer of that model, made with `on_invalid="flag"`.
        target: index of the class to explain where a sample asks for none; None: the predicted one.
        batch_size: views of one forward pass.

    Attributes, after `warm_up`:
        grid: (h, w) of the layer's maps; classes: number of the model's outputs.
    """

    with_masks = False

    def __init__(
        self,
        loaded: LoadedModel,
        cam: CFCAM,
        device: torch.device,
        batch_size: int,
        target: int | None = None,
    ) -> None:
        self.loaded = loaded
        self.cam = cam
        self.device = device
        self.target = target
        self.at_once = batch_size
        self.grid = (0, 0)
        self.classes = 0

    def warm_up(self) -> None:
        """One explanation of noise, so that what cannot work is said before anything is read."""
        noise = self.noise()
        with model_errors((1, 3, *noise.shape[1:3])):
            result = self._run(noise, self.target)
        assert result.logits is not None
        self.grid = (result.grid.shape[1], result.grid.shape[2])
        self.classes = result.logits.shape[1]

    def noise(self) -> torch.Tensor:
        """A view (1,H,W,3) uint8 to try things with."""
        size = self.loaded.preprocess.size
        generator = torch.Generator().manual_seed(0)
        return torch.randint(0, 256, (1, *size, 3), generator=generator, dtype=torch.uint8)

    def rows(self, views: Sequence[View], samples: Sequence[Sample], check: Check = never_ends) -> list[Row]:
        """Rows' columns for decoded samples (see `__call__`)."""
        return self([view.pixels for view in views], [sample.target for sample in samples], check)

    def __call__(
        self, views: Sequence[Any], targets: Sequence[str | None], check: Check = never_ends
    ) -> list[Row]:
        """Rows' columns for views (H,W,3) uint8: the map and what the model says, or why there are none.

        Args:
            targets: per view the class asked for, an index or a name; None: the run's.
            check: called before every pass of the model; raises to end the run.

        Raises:
            CFCAMError: whatever concerns the whole run: the layer, the run's target, memory for one image.
        """
        rows: list[Row] = [{} for _ in views]
        groups: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
        for position, text in enumerate(targets):
            try:
                asked = self.target if text is None else self._index(text)
                groups[asked is not None].append((position, -1 if asked is None else asked))
            except TargetError as error:
                rows[position] = error_columns("TargetError", str(error))
        for given, members in groups.items():
            some, indices = [views[i] for i, _ in members], [t for _, t in members]
            explained = self._all(some, indices if given else None, check)
            for (position, _), row in zip(members, explained, strict=True):
                rows[position] = row
        return rows

    def _index(self, text: str) -> int:
        index = self.loaded.class_index(text)
        if not 0 <= index < self.classes:
            raise TargetError(f"a class index must be from 0 to {self.classes - 1}, got {index}")
        return index

    def _all(self, views: Sequence[Any], targets: list[int] | None, check: Check) -> list[Row]:
        done: list[Row] = []
        while len(done) < len(views):
            part = slice(len(done), len(done) + self.at_once)
            some = views[part]
            try:
                with model_errors((len(some), 3, *self.loaded.preprocess.size)):
                    done += self._batch(some, None if targets is None else targets[part], check)
            except OutOfMemory:
                if len(some) == 1:
                    raise
                self.at_once = len(some) // 2
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                log.warning("out of memory with %d images at once; going on with %d", len(some), self.at_once)
        return done

    def _batch(self, views: Sequence[Any], targets: list[int] | None, check: Check) -> list[Row]:
        return self._rows(self._run(torch.from_numpy(np.stack(views)), targets, check))

    def _run(self, views: torch.Tensor, targets: Any, check: Check = never_ends) -> Explanation:
        images = self.loaded.preprocess.normalise(views.to(self.device))
        return self.cam(images, targets=targets, check=check)

    def _rows(self, result: Explanation) -> list[Row]:
        # They are None only for callable targets and without a model.
        assert result.logits is not None
        assert result.targets is not None
        columns: dict[str, Any] = {
            **self.told(result.logits, result.targets),
            "n_clusters": _listed(result.n_clusters, len(result.logits)),
            "noise_fraction": _listed(result.noise_fraction, len(result.logits)),
            "blank": result.blank.tolist(),
            "grid": list(result.grid.float().cpu().numpy()),
            "heatmap_max": result.peak.tolist(),
        }
        columns = {"status": ["ok"] * len(result.logits), **columns}
        return [
            row if problem is None else error_columns("InvalidImagesError", problem)
            for row, problem in zip(rows_of(columns), result.problems, strict=True)
        ]

    def told(self, logits: torch.Tensor, targets: torch.Tensor) -> dict[str, list[Any]]:
        """Columns of what the model says: logits (B,classes), explained classes (B,)."""
        probabilities = logits.float().softmax(1).cpu()
        best, predicted = probabilities.max(1)
        targets = targets.cpu()
        return {
            "target": targets.tolist(),
            "target_name": [self.loaded.class_name(index) for index in targets.tolist()],
            "target_prob": probabilities.gather(1, targets[:, None])[:, 0].tolist(),
            "pred": predicted.tolist(),
            "pred_name": [self.loaded.class_name(index) for index in predicted.tolist()],
            "prob": best.tolist(),
        }


def rows_of(columns: Mapping[str, Sequence[Any]]) -> list[Row]:
    """One row for each image from columns with one value for each image."""
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return cast(list[Row], rows)


def _listed(values: torch.Tensor | None, count: int) -> list[Any]:
    return [None] * count if values is None else values.tolist()


def error_columns(error_type: str, message: str) -> Row:
    return {"status": "error", "stage": "explain", "error_type": error_type, "message": message}
