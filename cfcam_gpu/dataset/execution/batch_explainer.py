"""Explains batches of decoded images: the columns of their rows that the model and the maps give."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from enum import Enum
from functools import partial
from typing import Any, cast

import numpy as np
import torch

from cfcam_gpu._utils.checks import Check, never_ends
from cfcam_gpu._utils.device import copied_to, model_errors, read_together
from cfcam_gpu.capture.selectors import Above, LikeliestAnd, TopK
from cfcam_gpu.capture.targets import Targets
from cfcam_gpu.dataset.execution.begun import BegunBatch
from cfcam_gpu.dataset.execution.transfers import stacked_pixels, transfers_of
from cfcam_gpu.dataset.judging import Judge
from cfcam_gpu.dataset.sources.sample import Sample
from cfcam_gpu.dataset.store.schema import OF_TARGET, Row
from cfcam_gpu.errors import OutOfMemory, TargetError
from cfcam_gpu.explainer import CFCAM, Explanation
from cfcam_gpu.explanation import Problem
from cfcam_gpu.images.views import View
from cfcam_gpu.models import LoadedModel

log = logging.getLogger("cfcam_gpu")


class ByLabel(Enum):
    """What a run explains by a sample's label: the classes that it names, without or with the predicted class."""

    EXPECTED = "expected"
    BOTH = "predicted,expected"


#: What a run explains of a sample that names no class.
RunTarget = int | tuple[int, ...] | TopK | Above | ByLabel | None

#: The class of a sample, or its classes where these go by its label.
Wanted = int | tuple[int, ...]

#: A decoded image, and its sample.
Item = tuple[View, Sample]


class BatchExplainer:
    """Explains batches of decoded images.

    A batch that does not fit in the device's memory is split; later batches then have half as many images.

    Args:
        loaded: the model's preprocessing and class names; its model is on `device`.
        cam: explainer of that model, made with `on_invalid="flag"`.
        batch_size: images of one forward pass.
        target: what to explain of samples that name no class: the index of a class, indices of several, or what
            chooses them; None: the predicted class.

    Attributes:
        map_shape: (h, w) of the saliency maps; known after `warm_up`.
        activation: `softmax` or `sigmoid`, which makes the probabilities; known after `warm_up`.
        class_count: number of the model's outputs; known after `warm_up`.
        needs_masks: whether the samples' masks are used, so that they must be decoded.
        transfers: copies to and from the device for which the host does not wait; None: rows are made at once.
    """

    needs_masks = False

    def __init__(
        self,
        loaded: LoadedModel,
        cam: CFCAM,
        device: torch.device,
        batch_size: int,
        target: RunTarget = None,
    ) -> None:
        self.loaded = loaded
        self.cam = cam
        self.device = device
        self.batch_size = batch_size
        self.target = target
        self.judge = Judge(loaded.class_names)
        self.map_shape = (0, 0)
        self.class_count = 0
        self.activation = "softmax"
        self.steps = 0
        self.transfers = transfers_of(device)
        self._unread: deque[BegunBatch] = deque()
        self._lock = threading.Lock()

    def warm_up(self) -> None:
        """Explains one image of noise, so that a model or layer that does not work is reported at once.

        A model that is to be compiled is so now, for whole batches, and gets one of noise.

        Raises:
            CFCAMError: the model, the layer or the target does not work, or the memory is too small.
        """
        noise = self.noise()
        if self.cam.compiles:
            self._compile(noise)
        with model_errors((1, noise.shape[3], *noise.shape[1:3])):
            explanation = self._explanation(noise, self._run_targets(1), never_ends)
        assert explanation.logits is not None
        self.map_shape = (explanation.grid.shape[-2], explanation.grid.shape[-1])
        self.class_count = explanation.logits.shape[1]
        self.activation = str(explanation.activation)

    def _compile(self, noise: torch.Tensor) -> None:
        """Explains a whole batch of noise; where the memory does not hold it, batches are halved."""
        while self.batch_size > 1:
            batch = noise.expand(self.batch_size, -1, -1, -1)
            try:
                with model_errors((len(batch), batch.shape[3], *batch.shape[1:3])):
                    self._explanation(batch, self._run_targets(len(batch)), never_ends)
                return
            except OutOfMemory:
                self._halve(len(batch))

    @property
    def explains_several(self) -> bool:
        """Whether a sample may have several explained classes."""
        return isinstance(self.target, (tuple, TopK, Above, ByLabel))

    def _run_targets(self, count: int) -> Targets:
        """The targets of images that name no class."""
        if isinstance(self.target, ByLabel):  # an image of noise has no label
            return self._targets([(0,)] * count)
        return [self.target] * count if isinstance(self.target, tuple) else self.target

    def _targets(self, wanted: Sequence[Wanted]) -> Targets:
        """The targets of images of which each names its class, or each its classes."""
        if self.target is ByLabel.BOTH and isinstance(wanted[0], tuple):
            return LikeliestAnd(tuple(row for row in wanted if isinstance(row, tuple)))
        return cast(Targets, list(wanted))  # all are classes, or all are tuples of them

    def noise(self) -> torch.Tensor:
        """An image of noise at the model's input size, (1, H, W, channels) uint8; always the same."""
        preprocess = self.loaded.preprocess
        shape = (1, *preprocess.size, preprocess.channels)
        generator = torch.Generator().manual_seed(0)
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)

    @property
    def ahead(self) -> int:
        """How many calls of `begin` should be made before the rows of the first are taken."""
        return 0 if self.transfers is None else 1

    def explain(
        self, views: Sequence[View], samples: Sequence[Sample], check: Check = never_ends
    ) -> list[Row]:
        """For each image the columns that explain it (see `schema.SampleRow`), or those of an error row.

        Args:
            samples: of the views; `Sample.target` names the class to explain, where it is set.
            check: called before every pass of the model; what it raises ends the run.

        Raises:
            CFCAMError: an error that concerns the whole run: the model fails, or one image alone does not fit
                in memory.
        """
        return self.begin(views, samples, check)()

    def begin(
        self, views: Sequence[View], samples: Sequence[Sample], check: Check = never_ends
    ) -> Callable[[], list[Row]]:
        """Begins `explain`; what is returned gives the rows, and waits for them.

        The views must stay as they are until then. One call at a time: an actor's threads wait for each other.

        Raises:
            CFCAMError: as `explain`; an error of the images of an earlier call is raised by its own rows.
        """

        def step() -> None:
            self.steps += 1
            check()

        self.steps = 0
        items = list(zip(views, samples, strict=True))
        targets = [self._target(sample) for sample in samples]
        rows: list[Row] = [
            error_columns("TargetError", str(target)) if isinstance(target, TargetError) else {}
            for target in targets
        ]
        others = [i for i, target in enumerate(targets) if target is None]
        named = {i: target for i, target in enumerate(targets) if isinstance(target, int)}
        labelled = {i: target for i, target in enumerate(targets) if isinstance(target, tuple)}
        groups: list[tuple[list[int], list[Wanted] | None]] = [
            (others, None),
            (list(named), list(named.values())),
            (list(labelled), list(labelled.values())),
        ]
        begun = []
        for positions, indices in groups:
            with self._lock:
                begun.append((positions, self._in_batches([items[i] for i in positions], indices, step)))

        def result() -> list[Row]:
            for positions, batches in begun:
                with self._lock:
                    explained = [row for batch in batches for row in batch.rows()]
                for position, row in zip(positions, explained, strict=True):
                    rows[position] = row
            return rows

        return result

    def explain_batch(
        self, items: Sequence[Item], targets: Sequence[Wanted] | None, check: Check
    ) -> list[Row]:
        """As `explain`, for images of one forward pass; targets None: those of the run."""
        return self._rows(read_together(self._tensors(self._of_items(items, targets, check))))

    def _of_items(self, items: Sequence[Item], targets: Sequence[Wanted] | None, check: Check) -> Explanation:
        pixels = self._pixels([view for view, _ in items])
        chosen = self._run_targets(len(items)) if targets is None else self._targets(targets)
        return self._explanation(pixels, chosen, check)

    def _pixels(self, views: Sequence[View]) -> torch.Tensor:
        """(B, H, W, channels) uint8 on the device."""
        arrays = [view.pixels for view in views if isinstance(view.pixels, np.ndarray)]
        if self.transfers is not None and len(arrays) == len(views):
            return self.transfers.upload(arrays)
        return stacked_pixels(views, self.device)

    def prediction_columns(self, probabilities: torch.Tensor, targets: torch.Tensor) -> dict[str, list[Any]]:
        """The columns of the explained and of the predicted class.

        Args:
            probabilities: (B, classes); targets: (B,) explained classes.
        """
        return self._named(
            {name: v.tolist() for name, v in read_together(_predictions(probabilities, targets)).items()}
        )

    def _named(self, columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """The columns of `_predictions` and those of the names of the classes."""
        names = {
            name: [self.loaded.class_name(index) for index in columns[name]] for name in ("target", "pred")
        }
        return {**columns, "target_name": names["target"], "pred_name": names["pred"]}

    def _target(self, sample: Sample) -> Wanted | TargetError | None:
        """Index of the class to explain, its classes by the label, None for what the run explains; or an error."""
        if sample.target is None and isinstance(self.target, ByLabel):
            return self._by_label(sample)
        if sample.target is None:
            return self.target if isinstance(self.target, int) else None
        try:
            index = self.loaded.class_index(sample.target)
        except TargetError as error:
            return error
        if 0 <= index < self.class_count:
            return index
        return TargetError(f"a class index must be from 0 to {self.class_count - 1}, got {index}")

    def _by_label(self, sample: Sample) -> tuple[int, ...] | TargetError:
        """The classes that the label names; an error where it names none and the prediction is not wanted either."""
        classes = () if sample.label is None else tuple(self.judge.classes_of(sample.label))
        classes = tuple(index for index in classes if index < self.class_count)
        if classes or self.target is ByLabel.BOTH:
            return classes
        reason = (
            "it has none" if sample.label is None else f"{sample.label!r} is no class of {self.loaded.spec}"
        )
        return TargetError(f"the class of its label is to be explained, and {reason}")

    def _in_batches(
        self, items: Sequence[Item], targets: Sequence[Wanted] | None, check: Check
    ) -> list[BegunBatch]:
        """Batches of all items, in order; the last `ahead` ones are under way."""
        begun: list[BegunBatch] = []
        start = 0
        while start < len(items):
            span = slice(start, start + self.batch_size)
            batch = (items[span], None if targets is None else targets[span], check)
            try:
                with self._errors(len(batch[0])):
                    read = self._begun(*batch)
            except OutOfMemory:
                if len(batch[0]) == 1:
                    raise
                self._halve(len(batch[0]))
                continue
            start = span.stop
            begun.append(BegunBatch(read, partial(self._again, *batch)))
            self._unread.append(begun[-1])
            while len(self._unread) > self.ahead:
                self._unread.popleft().finish()
        return begun

    def _begun(
        self, items: Sequence[Item], targets: Sequence[Wanted] | None, check: Check
    ) -> Callable[[], list[Row]]:
        """Begins `explain_batch`; what is returned gives the rows."""
        if self.transfers is None:
            rows = self.explain_batch(items, targets, check)
            return lambda: rows
        download = self.transfers.download(self._tensors(self._of_items(items, targets, check)))

        def read() -> list[Row]:
            with self._errors(len(items)):
                return self._rows(download.values())

        return read

    def _again(
        self,
        items: Sequence[Item],
        targets: Sequence[Wanted] | None,
        check: Check,
        error: OutOfMemory,
    ) -> list[Row]:
        """The rows of a batch whose reading told that it did not fit in memory, from smaller batches."""
        if len(items) == 1:
            raise error
        self._halve(len(items))
        return [row for batch in self._in_batches(items, targets, check) for row in batch.rows()]

    def _errors(self, count: int) -> AbstractContextManager[None]:
        preprocess = self.loaded.preprocess
        return model_errors((count, preprocess.channels, *preprocess.size))

    def _halve(self, batch_size: int) -> None:
        self.batch_size = batch_size // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        log.warning("out of memory with %d images at once; going on with %d", batch_size, self.batch_size)

    def _explanation(self, pixels: torch.Tensor, targets: Any, check: Check) -> Explanation:
        images = self.loaded.preprocess.normalise(copied_to(pixels, self.device))
        return self.cam(images, targets=targets, check=check)

    def _tensors(self, explanation: Explanation) -> dict[str, torch.Tensor]:
        """What the rows of a batch are made of, (B,…) each."""
        # Both are None only for targets that are functions, and for features captured elsewhere.
        assert explanation.probabilities is not None
        assert explanation.targets is not None
        tensors = {
            **_predictions(explanation.probabilities, explanation.targets),
            "n_clusters": explanation.n_clusters,
            "noise_fraction": explanation.noise_fraction,
            "blank": explanation.blank,
            "grid": explanation.grid.float(),
            "heatmap_max": explanation.peak,
            "problem": explanation.status,
        }
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    def _rows(self, values: dict[str, np.ndarray]) -> list[Row]:
        """The rows of a batch, from the values of `_tensors`."""
        targets, problems = values["target"], values.pop("problem").tolist()
        count = len(targets)
        places: list[Any] = [...] if targets.ndim == 1 else list(range(targets.shape[1]))
        by_place = [self._rows_of_place(values, place, count) for place in places]
        return [
            error_columns("InvalidImagesError", Problem(problem).sentence)
            if problem
            else _sample_row([row for row in rows if row["target"] is not None and row["target"] >= 0])
            for rows, problem in zip(zip(*by_place, strict=True), problems, strict=True)
        ]

    def _rows_of_place(self, values: Mapping[str, np.ndarray], place: Any, count: int) -> list[Row]:
        """The rows of one target of each image; `place`: its position on the axis K of the arrays, `...` without."""
        arrays = {name: v[:, place] if name in OF_TARGET else v for name, v in values.items()}
        columns = {name: list(v) if name == "grid" else v.tolist() for name, v in arrays.items()}
        return rows_of(
            {
                "status": ["ok"] * count,
                "n_clusters": [None] * count,
                "noise_fraction": [None] * count,
                **self._named(columns),
            }
        )


def _predictions(probabilities: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
    """The explained classes, (B,) or (B,K), and the predicted ones (B,), with their probabilities.

    Args:
        probabilities: (B,classes), of all classes.
    """
    highest, predicted = probabilities.max(1)
    inside = targets.clamp(0, probabilities.shape[1] - 1)  # one that is no class is a problem of its own
    target_probability = probabilities.gather(1, inside.view(len(targets), -1)).view_as(targets)
    return {"target": targets, "target_prob": target_probability, "pred": predicted, "prob": highest}


def _sample_row(rows: Sequence[Row]) -> Row:
    """The rows of a sample, one for each explained class, in one."""
    others = [
        cast(Row, {name: value for name, value in row.items() if name in OF_TARGET}) for row in rows[1:]
    ]
    return cast(Row, {**rows[0], "others": others} if others else rows[0])


def rows_of(columns: Mapping[str, Sequence[Any]]) -> list[Row]:
    """One row for each image, from columns with one value for each image.

    Example:
        >>> rows_of({"status": ["ok", "ok"], "target": [3, 7]})
        [{'status': 'ok', 'target': 3}, {'status': 'ok', 'target': 7}]
    """
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return cast(list[Row], rows)


def error_columns(error_type: str, message: str) -> Row:
    """The columns of an image that was decoded and cannot be explained.

    Example:
        >>> error_columns("TargetError", "no class is called 'dog'")["stage"]
        'explain'
    """
    return {"status": "error", "stage": "explain", "error_type": error_type, "message": message}
