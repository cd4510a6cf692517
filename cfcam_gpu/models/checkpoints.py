"""Training checkpoints: which of their entries are the model's weights, and which names belong to the model."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from cfcam_gpu._utils.messages import either, listed
from cfcam_gpu.errors import ModelError

_log = logging.getLogger("cfcam_gpu")

#: Entries under which training scripts store a model's weights, and their running average; the first is taken.
_RAW = (
    "state_dict", "model_state_dict", "model_state", "model", "net", "net_state_dict", "network", "module",
    "weights", "params",
)  # fmt: skip
_AVERAGED = (
    "state_dict_ema", "ema_state_dict", "model_ema", "model_ema_state_dict", "ema", "ema_model", "params_ema",
    "averaged_model", "swa_model", "teacher",
)  # fmt: skip

#: Entries inside entries that are looked into. A file may hold a dictionary that contains itself.
_DEEPEST = 6

#: What torch.optim.swa_utils.AveragedModel stores beside the weights.
_COUNTER = "n_averaged"

#: What to do with a file that holds something else.
SAVE_HINT = "save them with torch.save(model.state_dict(), FILE)"


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a model as a file holds them.

    Attributes:
        state: the tensors by their names.
        entry: the entry of the file that they stood in, `outer/inner` for nested ones; empty: they are the file.
    """

    state: dict[str, Tensor]
    entry: str = ""


def unwrapped_checkpoint(content: Any, path: Path, key: str | None = None) -> Checkpoint:
    """The weights in the content of a file: the dictionary of tensors itself, or inside a training checkpoint.

    Averaged weights that stand beside the raw ones are not taken, and the log says so.

    Args:
        content: what the file holds.
        path: the file, for messages.
        key: an entry to take, at any depth, or what the names of the weights begin with before a dot;
            None: the first of the usual entries.

    Raises:
        ModelError: there are no such weights.

    Example:
        >>> import torch
        >>> content = {"epoch": 3, "state_dict": {"w": torch.zeros(1)}, "ema": {"w": torch.ones(1)}}
        >>> unwrapped_checkpoint(content, Path("last.pth"), "ema")
        Checkpoint(state={'w': tensor([1.])}, entry='ema')
    """
    if key is None:
        inner, entries, others = _usual_entry(content)
        if others:
            _log.warning(
                "the weights %s hold %s beside %s; %s was taken, --weights-key %s takes the other",
                path, listed(others), entries[-1], entries[-1], others[0],
            )  # fmt: skip
        return Checkpoint(_tensors(inner, path), "/".join(entries))
    inner = next((value for name, value in _entries(content) if name == key), None)
    if inner is not None:
        inner, entries, _ = _usual_entry(inner)
        return Checkpoint(_tensors(inner, path), "/".join([key, *entries]))
    inner, entries, _ = _usual_entry(content)
    beginning = f"{key.rstrip('.')}."
    state = {name: value for name, value in _named_tensors(inner).items() if name.startswith(beginning)}
    if not state:
        raise ModelError(f"the weights {path} have no entry {key!r}{_choices(content, inner)}")
    return Checkpoint({name[len(beginning) :]: value for name, value in state.items()}, beginning)


def _usual_entry(content: Any) -> tuple[Any, list[str], list[str]]:
    """What stands under the usual names, those names, and the other usual names beside the last of them."""
    entries: list[str] = []
    others: list[str] = []
    while isinstance(content, Mapping) and len(entries) < _DEEPEST:
        names = [name for name in (*_RAW, *_AVERAGED) if _holds_weights(content.get(name))]
        if not names:
            break
        content, others = content[names[0]], [*others, *names[1:]]
        entries.append(names[0])
    return content, entries, others


def _holds_weights(value: Any, depth: int = 0) -> bool:
    if not isinstance(value, Mapping) or not value or depth == _DEEPEST:
        return False
    tensors = all(isinstance(one, Tensor) for one in value.values())
    return tensors or any(_holds_weights(value.get(name), depth + 1) for name in (*_RAW, *_AVERAGED))


def _entries(content: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """All entries that hold weights, with their names, the outer ones first."""
    if isinstance(content, Mapping) and depth < _DEEPEST:
        inner = [(str(name), value) for name, value in content.items() if isinstance(value, Mapping)]
        yield from ((name, value) for name, value in inner if _holds_weights(value))
        for _, value in inner:
            yield from _entries(value, depth + 1)


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    expected = f"the weights {path} must be a dictionary of tensors"
    if not isinstance(content, Mapping):
        raise ModelError(f"{expected}, got {type(content).__name__}; {SAVE_HINT}")
    others = [
        f"{key}: {type(value).__name__}" for key, value in content.items() if not isinstance(value, Tensor)
    ]
    if others or not content:
        names = list(dict.fromkeys(name for name, _ in _entries(content)))
        hint = f"pass --weights-key {names[0]}" if names else SAVE_HINT
        raise ModelError(f"{expected}, got {listed(others) or 'an empty one'}; {hint}")
    return {str(key): value for key, value in content.items()}


def _named_tensors(content: Any) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        return {}
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _choices(content: Any, inner: Any) -> str:
    names = list(dict.fromkeys(name for name, _ in _entries(content)))
    if names:
        return f"; choose {either(names)}"
    beginnings = list(dict.fromkeys(name.partition(".")[0] for name in _named_tensors(inner)))
    return f"; its names begin with {listed(beginnings)}" if beginnings else ""


def matching_names(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the model's names, without what stands before each of them.

    DataParallel, torch.compile, Lightning and wrapper classes put "module.", "_orig_mod.", "model." or an
    attribute's name before every name. What the file holds beside a whole model under such a beginning, such
    as a loss function's weights, is left out, and the log says so.

    Args:
        state: tensors by the names in a file; own: those of the model.

    Raises:
        ModelError: the model is there twice, under two beginnings.

    Example:
        >>> import torch
        >>> state = {"net.fc.bias": torch.zeros(1), "loss.pos_weight": torch.ones(1)}
        >>> list(matching_names(state, {"fc.bias": torch.zeros(1)}))
        ['fc.bias']
    """
    if _COUNTER not in own:
        state = {name: value for name, value in state.items() if name != _COUNTER}
    needed = {name for name in own if not name.endswith("num_batches_tracked")}
    candidates = {beginning: _without(state, beginning) for beginning in _beginnings(state, own)}
    complete = [beginning for beginning, names in candidates.items() if needed <= names.keys()]
    if needed <= state.keys():
        if complete:
            _log.warning(
                "beside the model, the weights hold it once more under %s; left out, --weights-key %s takes it",
                complete[0], complete[0][:-1],
            )  # fmt: skip
        return {name: value for name, value in state.items() if not name.startswith(tuple(complete))}
    if len(complete) > 1:
        raise ModelError(
            f"they hold this model more than once, under {' and '.join(complete)}; pass "
            f"{either([f'--weights-key {beginning[:-1]}' for beginning in complete])}"
        )
    if complete:
        beside = [name for name in state if not name.startswith(complete[0])]
        if beside:
            _log.warning(
                "beside the model, under %s, the weights hold %s; left out", complete[0], listed(beside)
            )
        return candidates[complete[0]]
    return _closest(state, own, candidates)


def _beginnings(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """What stands, with a dot, before the names of a few of the model's tensors."""
    names = list(own)
    few = {names[place] for place in (0, len(names) // 2, -1)} if names else set()
    return list(
        dict.fromkeys(name[: -len(one)] for name in state for one in sorted(few) if name.endswith(f".{one}"))
    )


def _without(state: Mapping[str, Tensor], beginning: str) -> dict[str, Tensor]:
    return {name[len(beginning) :]: value for name, value in state.items() if name.startswith(beginning)}


def _closest(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], candidates: Mapping[str, Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """The names, without the beginning that makes most of them names of the model, where that is any."""
    beginning = max(["", *candidates], key=lambda one: len({*_without(state, one)} & own.keys()))
    return {name.removeprefix(beginning): value for name, value in state.items()}
