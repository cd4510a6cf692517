"""What is explained: the logits of a model's output, and the target scores that are differentiated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cfcam_gpu.errors import CaptureError, TargetError

#: From the logits of one image (classes,) to one number, which is explained.
ScoreFunction = Callable[[Tensor], Tensor]

#: What a caller may ask for: see `cfcam_gpu.CFCAM.__call__`.
Targets = (
    int | Sequence[int] | Sequence[Sequence[int]] | Tensor | ScoreFunction | Sequence[ScoreFunction] | None
)


def logits_of(output: Any) -> Tensor:
    """The logits in a model's output: the tensor itself, its `.logits`, or its `["logits"]`.

    Raises:
        CaptureError: the output has none of these.

    Example:
        >>> logits_of({"logits": torch.tensor([[0.5, 2.0]])})
        tensor([[0.5000, 2.0000]])
    """
    if isinstance(output, Tensor):
        return output
    logits = getattr(output, "logits", None)
    if logits is None and isinstance(output, dict):
        logits = output.get("logits")
    if not isinstance(logits, Tensor):
        raise CaptureError(
            f"the model must return a tensor of logits or an object with .logits, got {describe(output)}; "
            "wrap it in a module that returns the logits"
        )
    return logits


def target_scores(logits: Tensor, targets: Targets, batch: int) -> tuple[Tensor, Tensor | None, Tensor]:
    """The scores to differentiate, the class indices they belong to, and which targets are out of range.

    Without targets each image's class with the highest logit is taken. Indices on a GPU are checked
    there, without waiting for the device: the caller reads the mask later.

    Args:
        logits: (B,classes); any shape (B,…) for callable targets.
        batch: B.

    Returns:
        Scores (B,K); indices (B,) or (B,K) int64, None for callable targets; mask (B,) bool of the
        images with a target that is not a class of the model.

    Raises:
        TargetError: targets that do not fit the batch, or indices on the CPU that are no class.

    Example:
        >>> scores, indices, out_of_range = target_scores(torch.tensor([[0.5, 2.0]]), None, batch=1)
        >>> scores, indices, out_of_range
        (tensor([[2.]]), tensor([1]), tensor([False]))
    """
    functions = score_functions(targets, batch)
    if functions is not None:
        scores = [_one_number(function(row)) for function, row in zip(functions, logits, strict=True)]
        return torch.stack(scores)[:, None], None, torch.zeros(batch, dtype=torch.bool, device=logits.device)
    if logits.ndim != 2 or len(logits) != batch:
        raise TargetError(
            f"class targets need logits of shape ({batch}, classes), the model gave {tuple(logits.shape)}; "
            "pass targets as a function of one image's output"
        )
    indices = logits.detach().argmax(1) if targets is None else _class_indices(targets, logits)
    columns = indices.view(batch, -1)
    out_of_range = ((columns < 0) | (columns >= logits.shape[1])).any(1)
    return logits.gather(1, columns.clamp(0, logits.shape[1] - 1)), indices, out_of_range


def score_functions(targets: Targets, batch: int) -> list[ScoreFunction] | None:
    """The function of each image's logits, B of them; None where the targets are classes.

    Raises:
        TargetError: functions mixed with classes, or not one function per image.

    Example:
        >>> len(score_functions(torch.Tensor.max, batch=3))
        3
        >>> score_functions([0, 2, 1], batch=3) is None
        True
    """
    if callable(targets):
        return [targets] * batch
    if isinstance(targets, (list, tuple)) and any(callable(target) for target in targets):
        if not all(callable(target) for target in targets) or len(targets) != batch:
            raise TargetError(
                f"expected one function per image ({batch}), got {len(targets)} targets; do not mix "
                "functions and classes"
            )
        return list(targets)
    return None


def _one_number(score: Any) -> Tensor:
    if not isinstance(score, Tensor) or score.numel() != 1:
        raise TargetError(f"a target function must return one number as a tensor, got {describe(score)}")
    return score.reshape(())


def _class_indices(targets: Any, logits: Tensor) -> Tensor:
    """Class indices (B,) or (B,K) int64 on the device of the logits (B,classes)."""
    batch, classes = logits.shape
    try:
        indices = targets if isinstance(targets, Tensor) else torch.as_tensor(targets)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TargetError(
            f"targets must be class indices, one or K for each image, got {targets!r}"
        ) from error
    if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
        raise TargetError(f"targets must be integers, got dtype {indices.dtype}")
    if indices.ndim == 0:
        indices = indices.expand(batch)
    if indices.ndim not in (1, 2) or len(indices) != batch or indices.numel() == 0:
        raise TargetError(f"expected targets of shape ({batch},) or ({batch}, K), got {tuple(indices.shape)}")
    if indices.device.type == "cpu":
        wrong = indices[(indices < 0) | (indices >= classes)].unique().tolist()
        if wrong:
            raise TargetError(
                f"targets must be from 0 to {classes - 1} for this model, got {', '.join(map(str, wrong))}"
            )
    return indices.to(device=logits.device, dtype=torch.int64)


def describe(value: Any) -> str:
    """What a value is, for an error message.

    Example:
        >>> describe(torch.zeros(2, 3)), describe(None)
        ('a float32 tensor of shape (2, 3)', 'a NoneType')
    """
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"
