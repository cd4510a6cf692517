"""What is explained: the logits of a model's output, and the target scores that are differentiated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cfcam_gpu._utils.device import copied_to
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


@dataclass(frozen=True)
class PreparedTargets:
    """Targets checked as far as possible without logits, before the forward pass: then nobody waits for their copy.

    All three are None where each image's class with the highest logit is to be explained.

    Attributes:
        functions: one function per image.
        indices: (B,) or (B,K) int64 on the model's device.
        on_host: the same on the CPU, where they came from there.
    """

    functions: list[ScoreFunction] | None = None
    indices: Tensor | None = None
    on_host: Tensor | None = None


def prepare_targets(targets: Targets, batch: int, device: torch.device) -> PreparedTargets:
    """The targets of B images on the device of the model.

    Raises:
        TargetError: targets that are no class indices or functions, or do not fit the batch.

    Example:
        >>> prepare_targets([0, 2], batch=2, device=torch.device("cpu")).indices
        tensor([0, 2])
    """
    functions = score_functions(targets, batch)
    if functions is not None or targets is None:
        return PreparedTargets(functions)
    try:
        indices = targets if isinstance(targets, Tensor) else torch.as_tensor(targets)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TargetError(
            f"targets must be class indices, one or K for each image, got {targets!r}"
        ) from error
    if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
        raise TargetError(f"targets must be integers, got dtype {indices.dtype}")
    on_host = indices if indices.device.type == "cpu" else None
    if indices.ndim == 0 and on_host is not None:
        indices = torch.full((batch,), int(on_host), device=device)
    elif indices.ndim == 0:
        indices = indices.expand(batch)
    if indices.ndim not in (1, 2) or len(indices) != batch or indices.numel() == 0:
        raise TargetError(f"expected targets of shape ({batch},) or ({batch}, K), got {tuple(indices.shape)}")
    indices = copied_to(indices, device).long()
    # A tensor made under inference mode cannot take part in a backward pass.
    return PreparedTargets(indices=indices.clone() if indices.is_inference() else indices, on_host=on_host)


def target_scores(
    logits: Tensor, targets: PreparedTargets, batch: int
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The scores to differentiate, the class indices they belong to, and which targets are out of range.

    Indices that came from a GPU are checked there, without waiting for the device: the caller reads the
    mask later.

    Args:
        logits: (B,classes); any shape (B,…) for callable targets.
        batch: B.

    Returns:
        Scores (B,K); indices (B,) or (B,K) int64, None for callable targets; mask (B,) bool of the
        images with a target that is not a class of the model, None where every target is one.

    Raises:
        TargetError: logits that do not fit the batch, or indices on the CPU that are no class.

    Example:
        >>> scores, indices, out_of_range = target_scores(torch.tensor([[0.5, 2.0]]), PreparedTargets(), batch=1)
        >>> scores, indices, out_of_range
        (tensor([[2.]]), tensor([1]), None)
    """
    if targets.functions is not None:
        scores = [_one_number(score(row)) for score, row in zip(targets.functions, logits, strict=True)]
        return torch.stack(scores)[:, None], None, None
    if logits.ndim != 2 or len(logits) != batch:
        raise TargetError(
            f"class targets need logits of shape ({batch}, classes), the model gave {tuple(logits.shape)}; "
            "pass targets as a function of one image's output"
        )
    if targets.indices is None:
        highest, indices = logits.max(1)
        return highest[:, None], indices, None
    classes = logits.shape[1]
    columns = targets.indices.view(batch, -1)
    if targets.on_host is not None:
        _check_range(targets.on_host, classes)
        return logits.gather(1, columns), targets.indices, None
    inside = columns.clamp(0, classes - 1)
    return logits.gather(1, inside), targets.indices, (inside != columns).any(1)


def _check_range(indices: Tensor, classes: int) -> None:
    wrong = indices[(indices < 0) | (indices >= classes)].unique().tolist()
    if wrong:
        raise TargetError(
            f"targets must be from 0 to {classes - 1} for this model, got {', '.join(map(str, wrong))}"
        )


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


def describe(value: Any) -> str:
    """What a value is, for an error message.

    Example:
        >>> describe(torch.zeros(2, 3)), describe(None)
        ('a float32 tensor of shape (2, 3)', 'a NoneType')
    """
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"
