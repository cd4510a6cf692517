"""Activations of a layer and the gradients of target scores with respect to them, from one forward pass.

The graph is cut at the target layer: what comes before it runs without gradients, what comes after
is differentiated with respect to a copy of the layer's output, with all parameters frozen. The
model comes back as it was given, also after an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from cfcam_gpu._utils.checks import Check, never_ends
from cfcam_gpu._utils.precision import use_gradients
from cfcam_gpu._utils.undo import Undo
from cfcam_gpu.capture.batch_norm import correct_gradients
from cfcam_gpu.capture.choice import choose_layer, finer_layer, list_layers
from cfcam_gpu.capture.compiled import CompiledModel
from cfcam_gpu.capture.contrast import contrasted
from cfcam_gpu.capture.failures import gradient_failure, run_model, why_not
from cfcam_gpu.capture.hooks import replace_outputs
from cfcam_gpu.capture.layers import LayerInfo, TargetLayer, find_layer
from cfcam_gpu.capture.layouts import LAYOUTS, Layout
from cfcam_gpu.capture.model_state import check_between, make_explainable
from cfcam_gpu.capture.reading import with_known_layout, with_layout
from cfcam_gpu.capture.scoring import Scoring, describe
from cfcam_gpu.capture.targets import (
    ScoreFunction,
    Targets,
    TargetScores,
    prepare_targets,
    target_scores,
)
from cfcam_gpu.errors import CaptureError

__all__ = [
    "LAYOUTS",
    "Capture",
    "LayerFeatures",
    "LayerInfo",
    "Layout",
    "ScoreFunction",
    "Scoring",
    "TargetLayer",
    "Targets",
    "capture",
    "choose_layer",
    "find_layer",
    "finer_layer",
    "list_layers",
    "with_layout",
]

#: Loss scaling: float16 scores are multiplied by this to avoid underflow, the gradients divided by it.
_FLOAT16_SCALE = 256.0


@dataclass(frozen=True)
class LayerFeatures:
    """What a layer put out for B images, and the gradients of K target scores each.

    Attributes:
        layer: the layer, with the layout of its output.
        activations: (B,C,h,w) in the model's dtype, detached.
        gradients: (B,K,C,h,w) float32; (B,0,C,h,w) where they were not asked for.
    """

    layer: TargetLayer
    activations: Tensor
    gradients: Tensor


@dataclass(frozen=True)
class Capture(LayerFeatures):
    """What one forward pass and K backward passes of the head give.

    Attributes:
        scores: (B,K) float32, the target scores.
        logits: (B,classes) float32, or whatever the model puts out for callable targets.
        activation: makes probabilities of the logits, a key of `scoring.ACTIVATIONS`.
        targets: (B,) or (B,K) int64, or None for callable targets.
        absent: (B,K) bool: places of `targets` without one, where the image's first class stands; None: none.
        functions: the callable targets, K for each image; empty where the targets are classes.
        single: whether one target per image was asked for, so that results have no axis K.
        out_of_range: (B,) bool, on the device: images with a target that is not a class of the model; None
            where every target is one.
        calls: how often the layer ran in the forward pass.
        call: the run that was captured, counted from 1.
        finer: the features of the earlier layer, where one was asked for.
        contrasted: whether contrasted scores were differentiated where there are such.
    """

    scores: Tensor
    logits: Tensor
    activation: str
    targets: Tensor | None
    absent: Tensor | None
    functions: tuple[tuple[ScoreFunction, ...], ...]
    single: bool
    out_of_range: Tensor | None
    calls: int
    call: int
    finer: LayerFeatures | None = None
    contrasted: bool = False


def capture(
    model: nn.Module,
    layer: TargetLayer,
    images: Tensor,
    targets: Targets = None,
    calls: int | None = None,
    *,
    differentiate: bool = True,
    finer: TargetLayer | None = None,
    scoring: Scoring = Scoring(),  # noqa: B008 - immutable
    contrast: bool = False,
    check: Check = never_ends,
    compiled: CompiledModel | None = None,
    call: int = -1,
) -> Capture:
    """Run the model on images (B,…) once and differentiate the target scores K times, down to the layer.

    Args:
        calls: how often the layer runs in a forward pass, if known: earlier calls are then not
            differentiated, which saves memory. A wrong number costs a second forward pass.
        differentiate: False leaves the backward passes out.
        finer: an earlier layer to capture in the same passes, which then go back as far as that.
        scoring: how the logits and the classes' scores are read from the model's output.
        contrast: differentiate the scores of classes against all others, where one of several holds.
        check: called often; raises to end the capture.
        compiled: runs the model in compiled halves where it can, at one layer.
        call: the run of the layer to capture, from 0; negative: counted from the last.

    Raises:
        CaptureError: the layer did not run so often, its output is no map, or no score depends on it.
        TargetError: targets that do not fit the batch or the classes.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 2))
        >>> captured = capture(model, find_layer(model, "1"), torch.rand(5, 3, 8, 8), targets=1)
        >>> captured.activations.shape, captured.gradients.shape
        (torch.Size([5, 4, 6, 6]), torch.Size([5, 1, 4, 6, 6]))
    """
    undo = Undo()
    try:
        make_explainable(model, undo)
        use_gradients(undo, enabled=differentiate)
        prepared = prepare_targets(targets, len(images), images.device)
        wanted = call + 1 if call >= 0 else None if calls is None else calls + call + 1
        every = call == -1
        cuts = _cuts(layer, finer, wanted)
        output, head = _run(model, images, cuts, check, compiled if every else None)
        if call < 0 and calls != cuts[0].calls and (calls is not None or not every):
            wanted = None if every else cuts[0].calls + call + 1
            cuts = _cuts(layer, finer, wanted)
            output, head = _run(model, images, cuts, check)
        leaves = {cut.layer.label: cut.result() for cut in cuts}
        layers = [with_known_layout(model, cut.layer, cut.result(), images) for cut in cuts]
        read = scoring.class_logits if prepared.functions is None else scoring.logits
        logits, activation = read(output), scoring.activation_of(scoring.logits(output))
        targeted = target_scores(logits, prepared, len(images), activation)
        same = replace(prepared, indices=targeted.indices, selector=None)

        competing = contrast and targeted.indices is not None and activation == "softmax"

        def differentiated(logits: Tensor, targeted: TargetScores) -> Tensor:
            if not competing or targeted.indices is None or logits.shape[1] < 2:
                return targeted.scores
            return contrasted(targeted.scores, logits, targeted.indices.view(len(images), -1))

        def again(k: int) -> Tensor:
            """The k-th target's scores, by the compiled head once more."""
            assert head is not None
            logits = read(head(leaves[layer.label].clone()))
            return differentiated(logits, target_scores(logits, same, len(images), activation))[:, k]

        scores = differentiated(logits, targeted) if differentiate else targeted.scores[:, :0]
        gradients = _gradients(scores, leaves, check, again if head else None)
    except CaptureError as error:
        reason = why_not(model)
        if not reason:
            raise
        raise CaptureError(f"{error}{reason}") from error
    finally:
        undo.run()
    features = [
        _features(one, leaf.detach(), gradient, len(images))
        for one, leaf, gradient in zip(layers, leaves.values(), gradients, strict=True)
    ]
    return Capture(
        layer=layers[0],
        activations=features[0].activations,
        gradients=features[0].gradients,
        finer=features[1] if finer else None,
        scores=targeted.scores.detach().float(),
        logits=logits.detach().float(),
        activation=activation,
        targets=targeted.indices,
        absent=targeted.absent,
        functions=tuple(prepared.functions or ()),
        single=prepared.single,
        out_of_range=targeted.out_of_range,
        calls=cuts[0].calls,
        call=cuts[0].wanted or cuts[0].calls,
        contrasted=contrast,
    )


def _cuts(layer: TargetLayer, finer: TargetLayer | None, wanted: int | None) -> list[_Cut]:
    """The cuts of a forward pass: at the wanted run of the layer, and at the last run of the finer one before it."""
    if finer is None:
        return [_Cut(layer, wanted)]
    own = _Cut(layer, wanted, attached=True)
    return [own, _Cut(finer, None, before=own)]


def _run(
    model: nn.Module,
    images: Tensor,
    cuts: Sequence[_Cut],
    check: Check,
    compiled: CompiledModel | None = None,
) -> tuple[Any, Callable[[Tensor], Any] | None]:
    """The model's output; and the head, where the model ran in compiled halves."""
    if compiled is not None and len(cuts) == 1:
        passed = compiled.run(model, cuts[0].layer, images, cuts[0].cut_last, check)
        if passed is not None:
            cuts[0].calls = passed.calls
            return passed.output, passed.head
        cuts[0].calls = 0
    elif compiled is not None:
        compiled.refuse("the method reads two layers")
    undo = Undo()
    try:
        for cut in cuts:
            replace_outputs(cut.layer, cut.cut, undo)
        correct_gradients(model, images, undo)
        check_between(model, images.device, check, undo)
        # With frozen parameters there is no graph before the cut.
        return run_model(model, images.detach()), None
    finally:
        undo.run()


class _Cut:
    """Replaces the output of one call of a layer by a copy that is a leaf of a new graph.

    Args:
        wanted: the call, counted from 1; None: the last.
        attached: the output stays part of the graph of an earlier cut, and is differentiated there.
        before: only calls before the wanted call of this other cut count.
    """

    def __init__(
        self, layer: TargetLayer, wanted: int | None, *, attached: bool = False, before: _Cut | None = None
    ) -> None:
        self.layer = layer
        self.wanted = wanted
        self.attached = attached
        self.before = before
        self.calls = 0
        self.leaf: Tensor | None = None

    def cut(self, output: Any) -> Any:
        self.calls += 1
        over = self.before is not None and self.before.is_over
        if over or (self.wanted is not None and self.calls != self.wanted):
            return output
        return self.cut_last(output)

    @property
    def is_over(self) -> bool:
        """Whether the wanted call has happened; never known where the last one is wanted."""
        return self.wanted is not None and self.calls >= self.wanted

    def cut_last(self, output: Any) -> Any:
        axes = (3, 4) if self.layer.layout is None else (2, 3, 4, 5)
        if not (isinstance(output, Tensor) and output.ndim in axes and output.is_floating_point()):
            raise CaptureError(
                f"target layer {self.layer.label!r} must put out a floating-point tensor (B,C,h,w), (B,h,w,C) "
                f"or (B,tokens,C), got {describe(output)}; `cfcam layers` lists the layers that do"
            )
        with torch.enable_grad():
            if self.attached:
                self.leaf = output
                return output.clone()
            detached = output.detach()
            self.leaf = (detached.clone() if detached.is_inference() else detached).requires_grad_()
            # The model goes on with a copy: an in-place operation may follow, and must not change what
            # was captured.
            return self.leaf.clone()

    def result(self) -> Tensor:
        if self.leaf is None and self.calls:
            raise CaptureError(
                f"target layer {self.layer.label!r} ran {self.calls} times in the forward pass, so there is no run "
                f"{self.wanted} of it, counted from 1; choose another call"
            )
        if self.leaf is None and self.layer.then:
            raise CaptureError(
                f"target layer {self.layer.label!r}: the model does not call {self.layer.then} on the output of "
                f"{self.layer.name!r}; leave :{self.layer.then} out, or choose another layer, `cfcam layers` lists them"
            )
        if self.leaf is None:
            raise CaptureError(
                f"target layer {self.layer.label!r} did not run in the forward pass; "
                "choose a layer that takes part in it, `cfcam layers` lists them"
            )
        if self.attached and not self.leaf.requires_grad:
            raise CaptureError(
                f"the finer layer does not come before layer {self.layer.label!r}; choose an earlier one, "
                "`cfcam layers` lists them in their order"
            )
        return self.leaf


def _features(layer: TargetLayer, output: Tensor, gradients: Sequence[Tensor], batch: int) -> LayerFeatures:
    """The maps in a layer's output, and in its K gradients.

    Raises:
        CaptureError: not one map per image.
    """
    assert layer.layout is not None
    activations = layer.layout.maps(output)
    if len(activations) != batch:
        raise CaptureError(
            f"target layer {layer.label!r} put out {len(activations)} maps for {batch} images; "
            "choose a layer that keeps the batch dimension"
        )
    maps = [layer.layout.maps(gradient) for gradient in gradients]
    return LayerFeatures(layer, activations, _stacked(maps, activations))


def _gradients(
    scores: Tensor,
    leaves: dict[str, Tensor],
    check: Check,
    again: Callable[[int], Tensor] | None = None,
) -> list[list[Tensor]]:
    """K float32 gradients of scores (B,K), for each of the leaves, which are named by their layers.

    Args:
        again: computes the k-th column of the scores anew: compiled code can be differentiated only once.
    """
    scale = _FLOAT16_SCALE if any(leaf.dtype == torch.float16 for leaf in leaves.values()) else 1.0
    # For one target views take the place of copies, forward and backward.
    columns = [scores.squeeze(1)] if scores.shape[1] == 1 else scores.unbind(1)
    by_layer: dict[str, list[Tensor]] = {label: [] for label in leaves}
    for k, column in enumerate(columns):
        check()
        if k and again is not None:
            column = again(k)
        gradients: Sequence[Tensor | None] = [None] * len(leaves)
        if column.requires_grad:
            # To check the shape of `grad_outputs`, PyTorch imports SymPy, which takes about a second.
            summed = column.is_cpu and scale == 1
            try:
                gradients = torch.autograd.grad(
                    column.sum() if summed else column,
                    list(leaves.values()),
                    grad_outputs=None if summed else torch.full_like(column, scale),
                    retain_graph=again is None and k + 1 < len(columns),
                    allow_unused=True,
                )
            except RuntimeError as error:
                raise gradient_failure(error) or error from error
        for (label, of_targets), gradient in zip(by_layer.items(), gradients, strict=True):
            if gradient is None:
                raise CaptureError(
                    f"the target score does not depend on layer {label!r} (no gradient reaches it), or the layer "
                    "lies inside torch.no_grad or reentrant activation checkpointing; choose a layer on the path "
                    "from the image to the score, `cfcam layers` lists them"
                )
            of_targets.append(gradient.float() if scale == 1 else gradient.float() / scale)
    return list(by_layer.values())


def _stacked(gradients: Sequence[Tensor], activations: Tensor) -> Tensor:
    """(B,K,C,h,w) of K tensors (B,C,h,w) like the activations."""
    if not gradients:
        return activations.new_zeros((len(activations), 0, *activations.shape[1:])).float()
    return gradients[0][:, None] if len(gradients) == 1 else torch.stack(list(gradients), dim=1)
