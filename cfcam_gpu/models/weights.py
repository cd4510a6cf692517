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

_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")
_SAVE_HINT = "save them with torch.save(model.state_dict(), FILE)"


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file by their names, on the CPU. No code in the file runs.

    A state dict inside a training checkpoint, under one of the usual keys, is found too.

    Args:
        path: a .safetensors file, or one that torch.save wrote.

    Raises:
        ModelError: the file cannot be read or does not contain a state dict.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "last.pth"
        ...     torch.save({"epoch": 3, "state_dict": nn.Linear(2, 1).state_dict()}, path)
        ...     state = read_state_dict(path)
        >>> sorted(state)
        ['bias', 'weight']
    """
    _check_weights_file(path)
    try:
        if path.suffix.lower() == ".safetensors":
            content: Any = safetensors.torch.load_file(path, device="cpu")
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about pickle protocols and archives
                content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # parsers of damaged files raise nearly anything
        raise ModelError(f"the weights {path} {_load_problem(error)}") from error
    return _unwrap(content, path)


def load_state_dict(model: nn.Module, state: Mapping[str, Tensor], problem: str) -> None:
    """Copies the tensors `state` into `model`.

    The prefixes "module." and "_orig_mod.", which DataParallel and torch.compile put before every
    name, are removed.

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
    state = _strip_prefixes(state, own)
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
        raise ModelError(f"{problem}: {', '.join(mismatches)}{_head_hint(shapes.values())}")
    model.load_state_dict(state, strict=False)


def _check_weights_file(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(512).lstrip().lower()
    except OSError as error:
        reason = (
            "do not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        )
        raise ModelError(f"the weights {path} {reason}; give a .pth, .pt or .safetensors file") from error
    if not start:
        raise ModelError(f"the weights {path} are an empty file; copy or download it again")
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ModelError(f"the weights {path} are a web page, not weights; download the file itself")
    if start.startswith(b"version https://git-lfs"):
        raise ModelError(f"the weights {path} are a Git LFS pointer, not weights; run git lfs pull")


def _load_problem(error: Exception) -> str:
    text = str(error)
    classes = re.search(r"GLOBAL (\S+)", text)
    if isinstance(error, pickle.UnpicklingError) and classes:
        return (
            f"hold pickled Python objects ({classes[1]}), which could run code and are not loaded; "
            f"save tensors only: torch.save(model.state_dict(), FILE)"
        )
    if "TorchScript" in text:
        return f"are a TorchScript archive, expected a dictionary of tensors; {_SAVE_HINT}"
    return f"are damaged or not a weights file ({one_line(error)}); copy them again, or {_SAVE_HINT}"


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    while isinstance(content, Mapping):
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    expected = f"the weights {path} must be a dictionary of tensors"
    if not isinstance(content, Mapping):
        raise ModelError(f"{expected}, got {type(content).__name__}; {_SAVE_HINT}")
    others = [
        f"{key}: {type(value).__name__}" for key, value in content.items() if not isinstance(value, Tensor)
    ]
    if others or not content:
        raise ModelError(f"{expected}, got {listed(others) or 'an empty one'}; {_SAVE_HINT}")
    return {str(key): value for key, value in content.items()}


def _strip_prefixes(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    def everywhere(prefix: str, keys: Iterable[str]) -> bool:
        return all(key.startswith(prefix) for key in keys)

    while prefix := next((p for p in _PREFIXES if everywhere(p, state) and not everywhere(p, own)), None):
        state = {key[len(prefix) :]: value for key, value in state.items()}
    return dict(state)


def _head_hint(shapes: Iterable[tuple[tuple[int, ...], tuple[int, ...]]]) -> str:
    """The number of classes to pass, where the shapes differ only in the last layer's number of outputs."""
    pairs = list(shapes)
    outputs = {there[:1] for there, _ in pairs}
    alike = all(there[1:] == here[1:] and there and here for there, here in pairs)
    return f"; pass --num-classes {outputs.pop()[0]}" if alike and len(outputs) == 1 else ""
