"""Activations of a layer and the gradients of target scores with respect to them, from one forward pass.

The graph is cut at the target layer: what comes before it runs without gradients, what comes after
is differentiated with respect to a copy of the layer's output, with all parameters frozen. The
model comes back as it was given, also after an exception.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cfcam_gpu.capture.layers import NONLINEARITIES, TargetLayer
from cfcam_gpu.capture.model_state import explainable
from cfcam_gpu.errors import CaptureError, TargetError

ScoreFunction = Callable[[Tensor], Tensor]
Targets = (
    int | Sequence[int] | Sequence[Sequence[int]] | Tensor | ScoreFunction | Sequence[ScoreFunction] | None
)

#: Gradients of a float16 head are taken of scores this much larger, lest they vanish; divided out in float32.
FLOAT16_SCALE = 256.0


@dataclass(frozen=True)
class Maps:
    """Activations (B,C,h,w) in the model's dtype, detached, and gradients (B,K,C,h,w) float32 of a layer."""

    activations: Tensor
    gradients: Tensor


@dataclass(frozen=True)
class Capture:
    """What one forward pass and K backward passes of the head give.

    Attributes:
        activations: (B,C,h,w) in the model's dtype, detached.
        gradients: (B,K,C,h,w) float32; (B,0,C,h,w) where they were not asked for.
        scores: (B,K) float32, what was or would be differentiated.
        logits: (B,classes) float32, or whatever the model puts out for callable targets.
        targets: (B,) or (B,K) int64, or None for callable targets.
        out_of_range: (B,) bool, on the device: targets that are no class of the model.
        calls: how often the layer ran in the forward pass; the last one counts.
        finer: the earlier layer's, where one was asked for.
    """

    activations: Tensor
    gradients: Tensor
    scores: Tensor
    logits: Tensor
    targets: Tensor | None
    out_of_range: Tensor
    calls: int
    finer: Maps | None = None


def capture(
    model: nn.Module,
    layer: TargetLayer,
    images: Tensor,
    targets: Targets = None,
    calls: int | None = None,
    differentiate: bool = True,
    finer: TargetLayer | None = None,
) -> Capture:
    """Run the model on images (B,…) once and differentiate the target scores K times, down to the layer.

    Args:
        calls: how often the layer runs in a forward pass, if known: earlier calls are then not
            differentiated, which saves memory. A wrong number costs a second forward pass.
        differentiate: False leaves the backward passes out.
        finer: an earlier layer to look at in the same passes, which then go back as far as that.

    Raises:
        CaptureError: the layer did not run, its output is not (B,C,h,w), or no score depends on it.
        TargetError: targets that do not fit the batch or the classes.
    """
    with explainable(model), torch.set_grad_enabled(differentiate):
        cuts = _cuts(layer, finer, calls)
        output = _run(model, images, cuts)
        if calls is not None and cuts[0].calls != calls:
            cuts = _cuts(layer, finer, None)
            output = _run(model, images, cuts)
        leaves = {cut.layer.label: cut.result(len(images)) for cut in cuts}
        logits = logits_of(output)
        scores, indices, out_of_range = target_scores(logits, targets, len(images))
        gradients = _gradients(scores if differentiate else scores[:, :0], leaves)
    features = [Maps(leaf.detach(), g) for leaf, g in zip(leaves.values(), gradients, strict=True)]
    return Capture(
        activations=features[0].activations,
        gradients=features[0].gradients,
        finer=features[1] if finer else None,
        scores=scores.detach().float(),
        logits=logits.detach().float(),
        targets=indices,
        out_of_range=out_of_range,
        calls=cuts[0].calls,
    )


def _cuts(layer: TargetLayer, finer: TargetLayer | None, calls: int | None) -> list[_Cut]:
    if finer is None:
        return [_Cut(layer, calls)]
    return [_Cut(layer, calls, attached=True), _Cut(finer, None)]


def _run(model: nn.Module, images: Tensor, cuts: Sequence[_Cut]) -> Any:
    with contextlib.ExitStack() as stack:
        for cut in cuts:
            stack.enter_context(replaced_outputs(cut.layer, cut.cut))
        # With frozen parameters there is no graph before the cut.
        return model(images.detach())


class _Cut:
    """Replaces the output of a layer's last call by a copy that is a leaf of a new graph.

    `attached`: the output stays part of the graph of an earlier cut, and is differentiated there.
    """

    def __init__(self, layer: TargetLayer, calls: int | None, attached: bool = False) -> None:
        self.layer = layer
        self.expected = calls
        self.attached = attached
        self.calls = 0
        self.leaf: Tensor | None = None

    def cut(self, output: Any) -> Any:
        self.calls += 1
        if self.expected is not None and self.calls != self.expected:
            return output
        if not (isinstance(output, Tensor) and output.ndim == 4 and output.is_floating_point()):
            raise CaptureError(
                f"target layer {self.layer.label!r} must put out a floating-point tensor (B,C,h,w), "
                f"got {describe(output)}; `cfcam layers` lists the layers that do"
            )
        with torch.enable_grad():
            if self.attached:
                self.leaf = output
                return output.clone()
            detached = output.detach()
            self.leaf = (detached.clone() if detached.is_inference() else detached).requires_grad_()
            # A copy goes on: an in-place operation may follow, and must not change what was captured.
            return self.leaf.clone()

    def result(self, batch: int) -> Tensor:
        if self.leaf is None:
            raise CaptureError(
                f"target layer {self.layer.label!r} did not run in the forward pass; "
                "choose a layer that takes part in it, `cfcam layers` lists them"
            )
        if len(self.leaf) != batch:
            raise CaptureError(
                f"target layer {self.layer.label!r} put out {len(self.leaf)} maps for {batch} images; "
                "choose a layer that keeps the batch dimension"
            )
        if self.attached and not self.leaf.requires_grad:
            raise CaptureError(
                f"the finer layer does not come before layer {self.layer.label!r}; choose an earlier one, "
                "`cfcam layers` lists them in their order"
            )
        return self.leaf


@contextlib.contextmanager
def replaced_outputs(layer: TargetLayer, replace: Callable[[Any], Any]) -> Iterator[None]:
    """Within it, `replace(output)` takes the place of every output of the layer."""
    with contextlib.ExitStack() as stack:
        if layer.then is None:
            handle = layer.module.register_forward_hook(lambda _m, _args, output: replace(output))
        else:
            mode = stack.enter_context(_AfterFunction(layer.then, replace))
            handle = layer.module.register_forward_hook(lambda _m, _args, output: mode.watch(output))
        stack.callback(handle.remove)
        yield


class _AfterFunction(TorchFunctionMode):
    """Applies `cut` to the output of the first call of `function` on the tensor being watched."""

    def __init__(self, function: str, cut: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.cut = cut
        self.watched: Tensor | None = None

    def watch(self, output: Any) -> None:
        self.watched = output

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        called = NONLINEARITIES.get(getattr(func, "__name__", ""))
        if self.watched is not None and called == self.function and args and args[0] is self.watched:
            self.watched = None
            return self.cut(result)
        return result


def _gradients(scores: Tensor, leaves: dict[str, Tensor]) -> list[Tensor]:
    """(B,K,C,h,w) float32 gradients of scores (B,K) for each of the leaves (B,C,h,w), named by their layers."""
    scale = FLOAT16_SCALE if any(leaf.dtype == torch.float16 for leaf in leaves.values()) else 1.0
    columns = scores.unbind(1)
    found: list[list[Tensor]] = [[] for _ in leaves]
    for k, column in enumerate(columns):
        gradients: Sequence[Tensor | None] = [None] * len(leaves)
        if column.requires_grad:
            gradients = torch.autograd.grad(
                column,
                list(leaves.values()),
                grad_outputs=torch.full_like(column, scale),
                retain_graph=k + 1 < len(columns),
                allow_unused=True,
            )
        for label, gradient, listed in zip(leaves, gradients, found, strict=True):
            if gradient is None:
                raise CaptureError(
                    f"the target score does not depend on layer {label!r} (no gradient reaches it); "
                    "choose a layer on the path from the image to the score, `cfcam layers` lists them"
                )
            listed.append(gradient.float() / scale)
    return [
        torch.stack(listed, dim=1) if listed else leaf.new_zeros((len(leaf), 0, *leaf.shape[1:])).float()
        for leaf, listed in zip(leaves.values(), found, strict=True)
    ]


def logits_of(output: Any) -> Tensor:
    """The logits of a model's output: the tensor itself, its `.logits`, or its `["logits"]`."""
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
    """Scores (B,K), class indices (B,), (B,K) or None, and a mask (B,) of targets that are no class.

    None takes the class with the highest logit. Indices on a GPU are checked there, without waiting for it.
    """
    good = torch.zeros(batch, dtype=torch.bool, device=logits.device)
    functions = score_functions(targets, batch)
    if functions is not None:
        scores = [_scalar(function(row)) for function, row in zip(functions, logits, strict=True)]
        return torch.stack(scores)[:, None], None, good
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
    """One function of its logits for each image, or None where targets are classes."""
    if callable(targets):
        return [targets] * batch
    if isinstance(targets, (list, tuple)) and any(callable(target) for target in targets):
        if not all(callable(target) for target in targets) or len(targets) != batch:
            raise TargetError(
                f"expected one function per image ({batch}), got {len(targets)} targets; do not mix kinds"
            )
        return list(targets)
    return None


def _scalar(score: Any) -> Tensor:
    if not isinstance(score, Tensor) or score.numel() != 1:
        raise TargetError(f"a target function must return one number as a tensor, got {describe(score)}")
    return score.reshape(())


def _class_indices(targets: Any, logits: Tensor) -> Tensor:
    """Class indices (B,) or (B,K) int64 on the logits' device."""
    batch, classes = logits.shape
    try:
        given = targets if isinstance(targets, Tensor) else torch.as_tensor(targets)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TargetError(
            f"targets must be class indices, one or K for each image, got {targets!r}"
        ) from error
    if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
        raise TargetError(f"targets must be integers, got dtype {given.dtype}")
    if given.ndim == 0:
        given = given.expand(batch)
    if given.ndim not in (1, 2) or len(given) != batch or given.numel() == 0:
        raise TargetError(f"expected targets of shape ({batch},) or ({batch}, K), got {tuple(given.shape)}")
    if given.device.type == "cpu" and (bad := given[(given < 0) | (given >= classes)].unique().tolist()):
        raise TargetError(
            f"targets must be from 0 to {classes - 1} for this model, got {', '.join(map(str, bad))}"
        )
    return given.to(device=logits.device, dtype=torch.int64)


def describe(value: Any) -> str:
    """What a value is, for an error message."""
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"
