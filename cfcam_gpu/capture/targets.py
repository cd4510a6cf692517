"""What is explained: classes or functions of the logits, and the scores of them that are differentiated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cfcam_gpu._utils.device import copied_to
from cfcam_gpu._utils.messages import first_line
from cfcam_gpu.capture.scoring import describe
from cfcam_gpu.capture.selectors import Selector
from cfcam_gpu.errors import TargetError

#: From the logits of one image (classes,) to one number, which is explained.
ScoreFunction = Callable[[Tensor], Tensor]

#: What a caller may ask for: see `cfcam_gpu.CFCAM.__call__`.
Targets = (
    int
    | Sequence[int]
    | Sequence[Sequence[int]]
    | Tensor
    | ScoreFunction
    | Sequence[ScoreFunction]
    | Sequence[Sequence[ScoreFunction]]
    | Selector
    | None
)


@dataclass(frozen=True)
class PreparedTargets:
    """Targets checked as far as possible without logits, before the forward pass: then nobody waits for their copy.

    Without functions, indices and selector each image's class with the highest logit is to be explained.

    Attributes:
        functions: K functions for each image.
        indices: (B,) or (B,K) int64 on the model's device.
        on_host: the same on the CPU, where they came from there.
        absent: (B,K) bool: places of `indices` that hold no target, since the image has fewer than others.
        selector: chooses the classes by the logits.
        single: whether there is one target for each image, so that results have no axis K.
    """

    functions: list[tuple[ScoreFunction, ...]] | None = None
    indices: Tensor | None = None
    on_host: Tensor | None = None
    absent: Tensor | None = None
    selector: Selector | None = None
    single: bool = True


@dataclass(frozen=True)
class TargetScores:
    """The target scores of B images.

    Attributes:
        scores: (B,K), to be differentiated.
        indices: (B,) or (B,K) int64, the classes; in absent places the image's first one. None for functions.
        out_of_range: (B,) bool, the images with a target that is not a class of the model; None where every target
            is one.
        absent: (B,K) bool, places without a target; None where there are none.
    """

    scores: Tensor
    indices: Tensor | None = None
    out_of_range: Tensor | None = None
    absent: Tensor | None = None


def prepare_targets(targets: Targets, batch: int, device: torch.device) -> PreparedTargets:
    """The targets of B images on the device of the model.

    Raises:
        TargetError: targets that are no class indices or functions, or do not fit the batch.

    Example:
        >>> prepare_targets([0, 2], batch=2, device=torch.device("cpu")).indices
        tensor([0, 2])
        >>> prepare_targets([[0, 2], [1]], batch=2, device=torch.device("cpu")).absent
        tensor([[False, False],
                [False,  True]])
    """
    if targets is None:
        return PreparedTargets()
    if isinstance(targets, Selector):
        return PreparedTargets(selector=targets, single=False)
    functions = _score_functions(targets, batch)
    if functions is not None:
        return functions
    indices, absent = _class_indices(targets)
    if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
        hint = "; of one-hot rows pass targets.argmax(1)" if indices.ndim == 2 else ""
        raise TargetError(f"targets must be integers, got dtype {indices.dtype}{hint}")
    on_host = indices if indices.device.type == "cpu" else None
    if indices.ndim == 0 and on_host is not None:
        indices = torch.full((batch,), int(on_host), device=device)
    elif indices.ndim == 0:
        indices = indices.expand(batch)
    if indices.ndim not in (1, 2) or len(indices) != batch or indices.numel() == 0:
        raise TargetError(f"expected targets of shape ({batch},) or ({batch}, K), got {tuple(indices.shape)}")
    indices = copied_to(indices, device).long()
    # A tensor made under inference mode cannot take part in a backward pass.
    indices = indices.clone() if indices.is_inference() else indices
    absent = None if absent is None else copied_to(absent, device)
    return PreparedTargets(indices=indices, on_host=on_host, absent=absent, single=indices.ndim == 1)


def _class_indices(targets: Any) -> tuple[Tensor, Tensor | None]:
    """The classes as a tensor; and where images have different numbers of classes, the places that hold none."""
    if isinstance(targets, Tensor):
        return targets, None
    rows = targets if isinstance(targets, (list, tuple)) else []
    nested = bool(rows) and all(isinstance(row, (list, tuple, Tensor)) for row in rows)
    if nested and any(not len(row) for row in rows if not isinstance(row, Tensor) or row.ndim):
        raise TargetError("an image has no target; name at least one class for each image")
    try:
        return _padded(rows) if nested else (torch.as_tensor(targets), None)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TargetError(
            f"targets must be class indices, one or K for each image, got {targets!r}"
        ) from error


def _padded(targets: Sequence[Any]) -> tuple[Tensor, Tensor | None]:
    rows = [target.tolist() if isinstance(target, Tensor) else list(target) for target in targets]
    if not all(isinstance(row, list) for row in rows):
        return torch.as_tensor(rows), None
    longest = max(map(len, rows))
    indices = torch.as_tensor([row + row[:1] * (longest - len(row)) for row in rows])
    if all(len(row) == longest for row in rows):
        return indices, None
    return indices, torch.tensor([[n >= len(row) for n in range(longest)] for row in rows])


def target_scores(logits: Tensor, targets: PreparedTargets, batch: int, activation: str) -> TargetScores:
    """The scores to differentiate, and the classes they belong to.

    Indices that came from a GPU are checked there, without waiting for the device: the caller reads the
    mask later.

    Args:
        logits: (B,classes); any shape (B,…) for callable targets.
        batch: B.
        activation: for a selector that reads probabilities.

    Raises:
        TargetError: logits that do not fit the batch, or indices on the CPU that are no class.

    Example:
        >>> target_scores(torch.tensor([[0.5, 2.0]]), PreparedTargets(), batch=1, activation="softmax").indices
        tensor([1])
    """
    if targets.functions is not None:
        return TargetScores(scores_by(targets.functions, logits))
    if logits.ndim != 2 or len(logits) != batch:
        raise TargetError(
            f"class targets need logits of shape ({batch}, classes), the model gave {tuple(logits.shape)}; "
            "pass targets as a function of one image's output"
        )
    if targets.selector is not None:
        indices, absent = targets.selector.choose(logits.detach(), activation)
        return TargetScores(logits.gather(1, indices), indices, absent=absent)
    if targets.indices is None:
        highest, indices = logits.max(1)
        return TargetScores(highest[:, None], indices)
    classes = logits.shape[1]
    columns = targets.indices.view(batch, -1)
    if columns.shape[1] == classes >= 3:
        _refuse_one_hot(columns if targets.on_host is None else targets.on_host)
    if targets.on_host is not None:
        _check_range(targets.on_host, classes)
        return TargetScores(logits.gather(1, columns), targets.indices, absent=targets.absent)
    inside = columns.clamp(0, classes - 1)
    return TargetScores(logits.gather(1, inside), targets.indices, (inside != columns).any(1), targets.absent)


def _refuse_one_hot(rows: Tensor) -> None:
    """Raises TargetError for rows of zeros and ones with a place for each of three or more classes.

    Whoever asks for every class of an image names one above 1.
    """
    if bool((rows.amax(1) <= 1).any()):
        raise TargetError(
            f"targets of shape {tuple(rows.shape)} that hold only 0 and 1 are one-hot rows, not class indices; "
            "pass targets.argmax(1), or for several classes an image a list of their indices"
        )


def _check_range(indices: Tensor, classes: int) -> None:
    wrong = indices[(indices < 0) | (indices >= classes)].unique().tolist()
    if wrong:
        raise TargetError(
            f"targets must be from 0 to {classes - 1} for this model, got {', '.join(map(str, wrong))}"
        )


def _score_functions(targets: Any, batch: int) -> PreparedTargets | None:
    """The functions of each image's logits; None where the targets are classes.

    Raises:
        TargetError: functions mixed with classes, not one or K functions for each image.
    """
    if callable(targets):
        return PreparedTargets([(targets,)] * batch)
    if not isinstance(targets, (list, tuple)):
        return None
    nested = bool(targets) and all(isinstance(row, (list, tuple)) for row in targets)
    rows: list[tuple[ScoreFunction, ...]] = [tuple(row) if nested else (row,) for row in targets]
    if not any(callable(target) for row in rows for target in row):
        return None
    if not all(callable(target) for row in rows for target in row) or len(rows) != batch:
        raise TargetError(
            f"expected one function per image ({batch}), got {len(targets)} targets; do not mix "
            "functions and classes"
        )
    if len({len(row) for row in rows}) > 1:
        raise TargetError(
            f"expected as many functions for each image, got {', '.join(str(len(row)) for row in rows)}"
        )
    return PreparedTargets(rows, single=not nested)


def scores_by(functions: Sequence[Sequence[ScoreFunction]], logits: Tensor) -> Tensor:
    """(B,K) scores by K functions of each image's logits.

    Raises:
        TargetError: a function that fails or does not return one number, or an output without a row for each image.

    Example:
        >>> scores_by([[torch.Tensor.max, torch.Tensor.min]], torch.tensor([[0.5, 2.0]]))
        tensor([[2.0000, 0.5000]])
    """
    if logits.ndim == 0 or len(logits) != len(functions):
        raise TargetError(
            f"target functions need a row of the output for each of {len(functions)} images, the model gave "
            f"{describe(logits)}; have it keep the batch axis, or pass classes"
        )
    scores = [_score(one, row) for of_image, row in zip(functions, logits, strict=True) for one in of_image]
    return torch.stack(scores).view(len(functions), -1)


def _score(function: ScoreFunction, logits: Tensor) -> Tensor:
    try:
        return _one_number(function(logits))
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise TargetError(
            f"a target function failed on {describe(logits)}, what the model puts out for one image: "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error


def _one_number(score: Any) -> Tensor:
    if not isinstance(score, Tensor) or score.numel() != 1:
        raise TargetError(f"a target function must return one number as a tensor, got {describe(score)}")
    return score.reshape(())
