"""Which layer is explained: the automatic choice, and the earlier layer of the fine methods.

A layer can be explained if the score depends on its map, most of the model's work lies before it, and its
output is a map of the picture. In a model of convolutions the shape says so. In others the layer must
change where the picture changes, see `noise_patch`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from cfcam_gpu._utils.precision import differentiable_sum
from cfcam_gpu._utils.undo import Undo
from cfcam_gpu.capture.failures import why_not
from cfcam_gpu.capture.hooks import add_hook, first_tensor
from cfcam_gpu.capture.layers import LayerInfo, TargetLayer
from cfcam_gpu.capture.layouts import (
    Layout,
    MapShape,
    check_layout,
    is_channels_first,
    readings,
)
from cfcam_gpu.capture.noise_patch import Locality, localities, run_patches
from cfcam_gpu.capture.reading import ATTENTION
from cfcam_gpu.capture.scoring import Scoring
from cfcam_gpu.capture.trace import Call, Trace, trace
from cfcam_gpu.errors import CaptureError

#: Share of the model's work that must lie before the target layer: stems and patch embeddings are none.
LEAST_SHARE = 0.5

#: The same for the earlier layer of methods that read two, where there is one.
LEAST_FINER_SHARE = 0.2

#: How many layers are tried, from the last one back.
MOST_TRIED = 8

_NORMS = {"batch_norm", "instance_norm", "group_norm"}

_TOO_EARLY = "before half of the model"
_NOT_ACTIVATED = "before its nonlinearity"
_PASSED_ON = "passes its input on"

#: Classes of modules that pass on what they get.
_PASSES_ON = re.compile(r"\w*Dropout\w*|DropPath|StochasticDepth|DropBlock\w*|Identity")


@dataclass(frozen=True)
class _Candidate:
    """A layer that may be explained, with the likeliest layout of its output and why it would be chosen."""

    call: Call
    layout: Layout
    reason: str

    @property
    def layer(self) -> TargetLayer:
        return TargetLayer(self.call.name, self.call.module, self.call.followed_by, self.layout)


def choose_layer(
    model: nn.Module, images: Tensor, layout: str = "auto", scoring: Scoring | None = None
) -> TargetLayer:
    """The last layer whose output is a map of the picture on which the score depends, after its nonlinearity.

    Where the score reads a class token that is the tokens before the last attention block. Layers
    that hold no map are left out: queries, keys, values and attention weights, encodings of positions,
    what comes before half of the model's work (a stem, a patch embedding), class scores, and whatever
    the score does not depend on.

    Args:
        images: a batch as the model takes it; its first image is run once. A model that attends runs
            once more, on ten made-up images of that size.
        layout: `auto`, or a key of `LAYOUTS`: only layers with this layout.
        scoring: how the logits are read from the model's output, where the usual way does not find them.

    Raises:
        CaptureError: there is no such layer; the message says what the model has.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
        >>> choose_layer(model, torch.rand(1, 3, 4, 4)).label
        '1'
    """
    check_layout(layout)
    return _choose(model, trace(model, images[:1], scoring), images, layout).layer


def _choose(model: nn.Module, traced: Trace, images: Tensor, layout: str) -> _Candidate:
    tried: list[_Candidate] = []
    for group in _groups(traced, layout):
        candidates: list[_Candidate] = []
        for candidate in _dependent(traced, group, layout):
            candidates.append(candidate)
            if _is_certain(candidate.call, traced):
                break
        chosen = _confirmed(model, images, traced, candidates)
        if chosen is not None:
            return chosen
        tried += candidates
    raise CaptureError(_refusal(model, traced, tried, layout))


def _groups(traced: Trace, layout: str) -> Iterator[list[Call]]:
    """Groups of calls that may be explained, each from the last call back.

    Maps come first, then normalised maps inside attention modules, then class scores, which a network
    without a head has for maps.
    """
    maps = [call for call in reversed(traced.calls) if _objection(call, layout) is None]
    inside = {call.name for call in maps if _inside_attention(call, traced)}
    scores = {call.name for call in maps if _is_scores(call, traced, layout)}
    yield [call for call in maps if call.name not in inside | scores]
    yield [call for call in maps if call.name in inside - scores]
    yield [call for call in maps if call.name in scores]


def _objection(call: Call, layout: str = "auto") -> str | None:
    """Why a call's output cannot be explained, in a few words; None: it may."""
    if not _layouts(call, layout):
        return "no map of the image"
    if not call.output.requires_grad:
        return "does not depend on the image"
    if _PASSES_ON.fullmatch(type(call.module).__name__):
        return _PASSED_ON
    if call.attended:
        return "queries, keys or values"
    if call.share < LEAST_SHARE:
        return _TOO_EARLY
    if call.made_by == "adaptive_avg_pool2d":
        return "pooled to a size of its own"
    # Before its nonlinearity a normalised map is centred on zero, and class activation maps of it are blank.
    if call.made_by in _NORMS and call.followed_by is None and call.share < 1:
        return _NOT_ACTIVATED
    return None


def _layouts(call: Call, layout: str = "auto") -> list[Layout]:
    """Ways to read a call's output, or only those of one kind."""
    return [one for one in call.layouts if layout in ("auto", one.name)]


def _is_certain(call: Call, traced: Trace) -> bool:
    """Whether the output can only be maps (B,C,h,w): so it is in a model of convolutions."""
    return not traced.attention and is_channels_first(call.output.shape, traced.geometry.image)


def _is_scores(call: Call, traced: Trace, layout: str) -> bool:
    """Whether the map is one of class scores, which are only pooled."""
    return call.last and _layouts(call, layout)[0].sizes(call.output.shape)[0] == traced.logits.shape[-1]


def _inside_attention(call: Call, traced: Trace) -> bool:
    """Whether a module lies within an attention module: keys and values may be made of its output alone."""
    parts = call.name.split(".")
    owners = [".".join(parts[:n]) for n in range(1, len(parts))]
    return any(_is_attention(name, traced) for name in owners)


def _is_attention(name: str, traced: Trace) -> bool:
    """Whether a module is named after attention, and is no block that adds its input to what it attends to."""
    is_named = ATTENTION.search(f"{name.rpartition('.')[2]} {type(traced.modules.get(name)).__name__}")
    return bool(is_named) and any(call.name == name and call.made_by != "add" for call in traced.calls)


def _dependent(traced: Trace, calls: Iterable[Call], layout: str) -> Iterator[_Candidate]:
    """The first `MOST_TRIED` calls whose map the score depends on."""
    reason, count = "last map that the score depends on", 0
    origins: set[int] = set()
    for call in calls:
        if call.origin in origins:
            continue  # a module that contains the maker of the output comes first
        (gradient,) = traced.gradients([call])
        if gradient is None:
            continue
        origins.add(call.origin)
        likeliest = _layouts(call, layout)[0]
        if gradient.any() and not likeliest.maps(gradient).any():
            reason = "last tokens that the class token attends to"
            continue
        yield _Candidate(call, likeliest, reason)
        count += 1
        if count == MOST_TRIED:
            return


def _confirmed(
    model: nn.Module, images: Tensor, traced: Trace, candidates: Sequence[_Candidate]
) -> _Candidate | None:
    """The first candidate that changes where the picture does, in the layout in which it does so.

    A model may spread every change over its whole map, as untrained attention does. There the test
    says nothing, and a candidate counts if an earlier layer passes the test in the same layout.
    """
    if not candidates or _is_certain(candidates[0].call, traced):
        return next(iter(candidates), None)
    results = _localities(model, images, [candidate.call for candidate in candidates])
    for candidate in candidates:
        by_layout = results.get(candidate.call.name, {})
        passing = [one for one, result in by_layout.items() if result.is_map]
        if passing or _is_certain(candidate.call, traced):
            return replace(candidate, layout=(passing or [candidate.layout])[0])
        likeliest = by_layout.get(candidate.layout)
        if (
            likeliest is not None
            and likeliest.is_spread
            and _earlier_agrees(model, images, traced, candidate)
        ):
            return candidate
    return None


def _earlier_agrees(model: nn.Module, images: Tensor, traced: Trace, candidate: _Candidate) -> bool:
    """Whether the last layer before the candidate of which the test can tell anything is a map in its layout.

    From each layer to the next the resolution is at most halved. Elsewhere tokens are made anew, of learned
    queries for example, and are no places in the picture.
    """
    kind = candidate.layout.name
    before = traced.calls[: traced.calls.index(candidate.call)]
    calls = [call for call in before if any(one.name == kind for one in call.layouts[:1])]
    calls = [call for call in calls if not _inside_attention(call, traced)]
    results = _localities(model, images, calls)
    _, *shape = candidate.layout.sizes(candidate.call.output.shape)
    for call in reversed(calls):
        result = results.get(call.name, {}).get(call.layouts[0])
        if result is None or any(n < m for n, m in zip(call.map_shape, shape, strict=True)):
            continue
        if any(n > 2 * m for n, m in zip(call.map_shape, shape, strict=True)):
            return False
        if not result.is_spread:
            return result.is_map
        shape = list(call.map_shape)
    return False


def _localities(model: nn.Module, images: Tensor, calls: Iterable[Call]) -> dict[str, dict[Layout, Locality]]:
    """Of the noise-patch test: how each way to read each call's last output follows the patches."""
    results: dict[str, dict[Layout, Locality]] = {}

    def keep(call: Call) -> Callable[..., None]:
        def hook(_module: nn.Module, _arguments: object, output: object) -> None:
            results[call.name] = localities(first_tensor(output), call.layouts)

        return hook

    undo = Undo()
    try:
        for call in calls:
            add_hook(call.module._forward_hooks, keep(call), undo)
        run_patches(model, images)
    finally:
        undo.run()
    return results


def _refusal(model: nn.Module, traced: Trace, tried: Sequence[_Candidate], layout: str) -> str:
    """What the model has in place of a layer to explain, and what to pass."""
    what_to_pass = (
        "pass target_layer, with layout or reshape_transform if its output is no (B,C,h,w), or "
        "explain_activations for features of another shape"
    )
    kind = "" if layout == "auto" else f" with layout {layout!r}"
    name = type(model).__name__
    if tried:
        names = ", ".join(repr(candidate.layer.label) for candidate in tried[:3])
        return (
            f"no layer of this {name}{kind} changes where the picture changes (tried {names}); {what_to_pass}"
        )
    maps = [call for call in traced.calls if _layouts(call, layout)]
    if not maps:
        rest = why_not(model) or f"; {what_to_pass}"
        return f"no module of this {name} has a map{kind} larger than 1x1 for an output{rest}"
    objection = _objection(maps[-1], layout) or "the score does not depend on it"
    return (
        f"no layer of this {name}{kind} can be explained; the last with a map, {maps[-1].name!r}: {objection}; "
        f"{what_to_pass}"
    )


def finer_layer(
    model: nn.Module, layer: TargetLayer, images: Tensor, scoring: Scoring | None = None
) -> TargetLayer:
    """The last layer before `layer` whose maps have about twice its rows and columns, or more.

    Twice as many less one count as well: 15 rows are halved to 8. A layer inside a module that takes in
    maps of this size and puts out smaller ones, such as the block that halves the resolution, is taken
    only where there is no other; so is one before a fifth of the model's work, such as a stem.

    Args:
        images: a batch as the model takes it; its first image is run once, as by `choose_layer`.
        scoring: as for `choose_layer`.

    Raises:
        CaptureError: there is none.

    Example:
        >>> from cfcam_gpu.capture import find_layer
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.ReLU())
        >>> finer_layer(model, find_layer(model, "3"), torch.rand(1, 3, 10, 10)).label
        '1'
    """
    traced = trace(model, images[:1], scoring)
    own = next((call for call in traced.calls if call.module is layer.module), None)
    layout = layer.layout or (own.layouts[0] if own and own.layouts else None)
    if own is None or layout is None:
        raise CaptureError(
            f"layer {layer.label!r} has no maps larger than 1x1; `cfcam layers` lists those that have"
        )
    _, rows, columns = layout.sizes(own.output.shape)
    before = traced.calls[: traced.calls.index(own)]
    finer = [call for call in reversed(before) if _may_be_finer(call, traced, (rows, columns))]
    finer = [call for call in finer if call.share >= LEAST_FINER_SHARE] or finer
    ends = [call for call in finer if not _inside_reduction(call, traced)]
    made = [call for call in ends if _objection(call) != _PASSED_ON]
    candidates = (
        _Candidate(call, call.layouts[0], "last maps of twice the resolution")
        for call in made or ends or finer
        if _depends(own, call)
    )
    chosen = _confirmed(model, images, traced, list(itertools.islice(candidates, MOST_TRIED)))
    if chosen is None:
        raise CaptureError(
            f"no layer before {layer.label!r} has maps of twice its resolution ({rows}x{columns}); "
            "explain an earlier layer by method 'cfcam'"
        )
    return chosen.layer


def _may_be_finer(call: Call, traced: Trace, shape: MapShape) -> bool:
    objection = _objection(call)
    if objection not in (None, _TOO_EARLY, _PASSED_ON, _NOT_ACTIVATED) or _inside_attention(call, traced):
        return False
    return all(n >= 2 * m - 1 for n, m in zip(call.map_shape, shape, strict=True)) and call.map_shape != shape


def _inside_reduction(call: Call, traced: Trace) -> bool:
    """Whether a module around the call takes in maps of about its size and puts out smaller ones."""
    rows = call.map_shape[0]
    for around in traced.calls:
        if not (call.name.startswith(f"{around.name}.") and around.layouts and around.taken):
            continue
        taken = [one.sizes(around.taken)[1] for one in readings(around.taken, traced.geometry)[:1]]
        if around.map_shape[0] < rows and taken and taken[0] < 2 * rows - 1:
            return True
    return False


def _depends(later: Call, earlier: Call) -> bool:
    """Whether the later call's output depends on the earlier one's."""
    if not (later.output.requires_grad and earlier.output.requires_grad):
        return False
    (gradient,) = torch.autograd.grad(
        differentiable_sum(later.output), [earlier.output], retain_graph=True, allow_unused=True
    )
    return gradient is not None


def list_layers(model: nn.Module, images: Tensor, scoring: Scoring | None = None) -> list[LayerInfo]:
    """All layers whose output may be a map, in the order of their last calls, the automatic choice marked.

    `scoring` as for `choose_layer`.

    Raises:
        CaptureError: there is none.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        >>> [(layer.name, layer.shape, layer.chosen) for layer in list_layers(model, torch.rand(1, 3, 4, 4))]
        [('0', (4, 2, 2), False), ('1', (4, 2, 2), True)]
    """
    traced = trace(model, images[:1], scoring)
    refusal = ""
    try:
        chosen = _choose(model, traced, images, "auto")
    except CaptureError as error:
        chosen, refusal = None, str(error)
    infos = [_info(call, traced, chosen) for call in traced.calls if call.layouts]
    if not infos:
        raise CaptureError(refusal)
    return infos


def _info(call: Call, traced: Trace, chosen: _Candidate | None) -> LayerInfo:
    is_chosen = chosen is not None and call is chosen.call
    layout = chosen.layout if chosen is not None and is_chosen else call.layouts[0]
    note = chosen.reason if chosen is not None and is_chosen else _objection(call) or ""
    if not note and _inside_attention(call, traced):
        note = "inside attention"
    _, rows, columns = layout.sizes(call.output.shape)
    return LayerInfo(
        name=TargetLayer(call.name, call.module, call.followed_by if is_chosen else None).label,
        type=type(call.module).__name__,
        shape=call.shape,
        chosen=is_chosen,
        layout=layout.about,
        map_shape=(rows, columns),
        note=note,
    )
