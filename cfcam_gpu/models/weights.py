"""Weights files: read without running code in them, and copied into a model only if every tensor fits."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from cfcam_gpu._utils.messages import listed, one_line
from cfcam_gpu.errors import ModelError
from cfcam_gpu.models.checkpoints import SAVE_HINT, Checkpoint, matching_names, unwrapped_checkpoint
from cfcam_gpu.models.weights_file import check_weights_file


def read_checkpoint(path: Path, key: str | None = None) -> Checkpoint:
    """The tensors of a weights file by their names, on the CPU. No code in the file runs.

    A state dict inside a training checkpoint, under one of the usual entries, is found too.

    Args:
        path: a .safetensors file, or one that torch.save wrote.
        key: the entry to take instead (see `unwrapped_checkpoint`).

    Raises:
        ModelError: the file cannot be read or does not contain a state dict.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "last.pth"
        ...     torch.save({"epoch": 3, "state_dict": nn.Linear(2, 1).state_dict()}, path)
        ...     checkpoint = read_checkpoint(path)
        >>> checkpoint.entry, sorted(checkpoint.state)
        ('state_dict', ['bias', 'weight'])
    """
    check_weights_file(path)
    try:
        if path.suffix.lower() == ".safetensors":
            content: Any = safetensors.torch.load_file(path, device="cpu")
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about pickle protocols and archives
                content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # parsers of damaged files raise nearly anything
        raise ModelError(f"the weights {path} {_load_problem(error)}") from error
    return unwrapped_checkpoint(content, path, key)


def load_state_dict(model: nn.Module, state: Mapping[str, Tensor], problem: str) -> None:
    """Copies the tensors `state` into `model`.

    What stands before all names, such as "module." or "model.", is removed (see `matching_names`).

    Args:
        problem: the beginning of the message, if they do not fit.

    Raises:
        ModelError: names or shapes differ; the message lists them.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> state = {"module.weight": torch.ones(1, 2), "module.bias": torch.zeros(1)}
        >>> load_state_dict(model, state, "the weights do not fit")
        >>> model.weight.tolist()
        [[1.0, 1.0]]
    """
    own = {key: value for key, value in model.state_dict().items() if isinstance(value, Tensor)}
    try:
        state = matching_names(state, own)
    except ModelError as error:
        raise ModelError(f"{problem}: {error}") from error
    # Old checkpoints lack BatchNorm's counter, which eval mode does not use.
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    shapes = {
        key: (tuple(state[key].shape), tuple(own[key].shape))
        for key in own
        if key in state and state[key].shape != own[key].shape
    }
    differing = [f"{key}: file {there}, model {here}" for key, (there, here) in shapes.items()]
    groups = {"missing": missing, "unexpected": unexpected, "with another shape": differing}
    mismatches = [f"{len(keys)} {what} ({listed(keys)})" for what, keys in groups.items() if keys]
    if mismatches:
        hint = _renamed_head_hint({key: own[key] for key in missing}, {key: state[key] for key in unexpected})
        first = next((key for key, value in own.items() if value.ndim > 2), "")
        hint += _channels_hint(shapes.pop(first, None))
        raise ModelError(f"{problem}: {', '.join(mismatches)}{hint}{_classes_hint(shapes.values())}")
    model.load_state_dict(state, strict=False)


def _load_problem(error: Exception) -> str:
    text = str(error)
    classes = re.search(r"GLOBAL (\S+)", text)
    if isinstance(error, pickle.UnpicklingError) and classes:
        return (
            f"hold pickled Python objects ({classes[1]}), which could run code and are not loaded; "
            "save tensors only: torch.save(model.state_dict(), FILE), or once, of a checkpoint that you trust: "
            "torch.save(torch.load(OLD, weights_only=False)[ENTRY], FILE)"
        )
    if "TorchScript" in text:
        return f"are a TorchScript archive, expected a dictionary of tensors; {SAVE_HINT}"
    return f"are damaged or not a weights file ({one_line(error)}); copy them again, or {SAVE_HINT}"


def _classes_hint(shapes: Iterable[tuple[tuple[int, ...], tuple[int, ...]]]) -> str:
    """The number of classes to pass, where the shapes differ only in the last layer's number of outputs."""
    pairs = list(shapes)
    outputs = {there[:1] for there, _ in pairs}
    alike = all(there[1:] == here[1:] and there and here for there, here in pairs)
    return f"; pass --num-classes {outputs.pop()[0]}" if alike and len(outputs) == 1 else ""


def _channels_hint(shapes: tuple[tuple[int, ...], tuple[int, ...]] | None) -> str:
    """The number of channels to pass, where that alone differs in the shape of the first convolution."""
    there, here = shapes or ((), ())
    differs = len(there) == len(here) and [a != b for a, b in zip(there, here, strict=True)] == [
        place == 1 for place in range(len(here))
    ]
    return f"; pass --channels {there[1]}" if there and differs else ""


def _renamed_head_hint(missing: Mapping[str, Tensor], unexpected: Mapping[str, Tensor]) -> str:
    """What to do where one layer has another name in the file; empty where more than that differs."""
    here, there = _only_layer(missing), _only_layer(unexpected)
    if here is None or there is None or here[1].keys() != there[1].keys():
        return ""
    pairs = [(tuple(there[1][leaf].shape), tuple(here[1][leaf].shape)) for leaf in here[1]]
    if any(file[1:] != model[1:] for file, model in pairs):
        return ""
    inside = (
        f", behind a Dropout or another layer without weights in an nn.Sequential {here[0]}"
        if there[0].startswith(f"{here[0]}.")
        else ""
    )
    differing = _classes_hint([pair for pair in pairs if pair[0] != pair[1]])
    return (
        f"; only the name of a layer differs, {there[0]} in the file{inside}, {here[0]} in the model: write a "
        f"function that makes the model with that head and pass --model py:MODULE:FUNCTION, or rename the tensors"
        f"{differing}"
    )


def _only_layer(tensors: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]] | None:
    """The name of the layer that all tensors belong to, and its tensors; None where they belong to several."""
    layers = {name.rpartition(".")[0] for name in tensors}
    if len(layers) != 1:
        return None
    return layers.pop(), {name.rpartition(".")[2]: value for name, value in tensors.items()}
