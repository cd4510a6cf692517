"""The fingerprint of a run: everything its numbers depend on. Only a run with an equal one continues another."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn

import cfcam_gpu
from cfcam_gpu._utils.places.masking import masked
from cfcam_gpu.dataset.execution.batch_explainer import BatchExplainer, ByLabel
from cfcam_gpu.dataset.options import PART_SIZE, RunOptions

#: Fields of the fingerprint that earlier versions of the package did not store, with the value they stand for.
_LATER_FIELDS = {
    "method": "cfcam", "decode": "full", "compile": False, "layout": "auto", "weights_key": None,
    "activation": "softmax", "value_range": None, "scales": (1.0,), "flip": False,
    "eigen_smooth": False, "aug_smooth": False,
}  # fmt: skip


def weights_hash(model: nn.Module) -> str:
    """SHA-256 of all parameters and buffers with their names, dtypes and shapes; the same on any device.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> before = weights_hash(layer)
        >>> with torch.no_grad():
        ...     _ = layer.weight.add_(1)
        >>> weights_hash(layer) == before
        False
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            if value.numel():
                flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
                digest.update(flat.numpy().data)
    return digest.hexdigest()


def versions() -> dict[str, str | None]:
    """Versions of the packages that the numbers depend on; None where a package is not installed.

    Example:
        >>> sorted(versions())
        ['cfcam_gpu', 'torch', 'torchvision']
    """
    installed: dict[str, str | None] = {"cfcam_gpu": cfcam_gpu.__version__}
    for package in ("torch", "torchvision"):
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            installed[package] = None
    return installed


def fingerprint(explainer: BatchExplainer, weights: str, options: RunOptions) -> dict[str, Any]:
    """The fingerprint of a dataset run.

    Args:
        explainer: after `warm_up`.
        weights: the hash of the model's weights as they were loaded, before `prepared` changed them.
        options: the settings of the run.
    """
    loaded = explainer.loaded
    overlays = {"kind": options.overlays, "cmap": options.cmap, "alpha": options.alpha}
    return {
        "method": options.method,
        "config": dataclasses.asdict(options.config),
        "model": loaded.spec,
        "weights_sha256": weights,
        "weights_key": loaded.weights_key,
        "layer": explainer.cam.layer_name,
        "layout": options.layout,
        "finer_layer": explainer.cam.finer_layer_name,
        "preprocess": dataclasses.asdict(loaded.preprocess),
        "target": _stored_target(explainer),
        "top_k": options.top_k,
        "multi_label": options.multi_label,
        "activation": explainer.activation,
        "output": options.output,
        "class_names": _names_hash(loaded.class_names),
        "precision": options.precision,
        "channels_last": options.channels_last,
        "fold_batchnorm": options.fold_batchnorm,
        "decode": options.decode,
        "value_range": None if options.value_range is None else str(options.read_options.value_range),
        "compile": options.compile,
        "scales": options.scales,
        "flip": options.flip,
        "eigen_smooth": options.eigen_smooth,
        "aug_smooth": options.aug_smooth,
        "overlays": {"kind": "none"} if options.overlays == "none" else overlays,
        "versions": versions(),
    }


def _stored_target(explainer: BatchExplainer) -> int | tuple[int, ...] | str | None:
    """The run's target, None where other fields say it."""
    target = explainer.target
    if isinstance(target, ByLabel):
        return target.value
    return target if isinstance(target, (int, tuple)) else None


def _names_hash(names: tuple[str, ...] | None) -> str | None:
    return None if names is None else hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def about(explainer: BatchExplainer, weights: str, options: RunOptions) -> dict[str, Any]:
    """The content of run.json, except what depends on the samples. Arguments as for `fingerprint`."""
    loaded = explainer.loaded
    info = {
        "weights": loaded.weights,
        "engine": explainer.cam.engine_name,
        "device": str(explainer.device),
        "precision": options.precision,
        "batch_size": options.batch_size,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": [os.path.basename(sys.argv[0]), *map(masked, sys.argv[1:])],
    }
    return {
        "fingerprint": fingerprint(explainer, weights, options),
        "shard_size": options.part_size or PART_SIZE,
        "grid": list(explainer.map_shape),
        "size": list(loaded.preprocess.size),
        "class_names": None if loaded.class_names is None else list(loaded.class_names),
        "preprocess": dataclasses.asdict(loaded.preprocess),
        "info": info,
    }


def with_later_fields(stored: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """A stored fingerprint with the fields of `now` that the version which stored it did not know yet.

    Example:
        >>> with_later_fields({"layer": "conv"}, {"method": "gradcam", "layer": "conv"})
        {'method': 'cfcam', 'layer': 'conv'}
    """
    return {**{name: value for name, value in _LATER_FIELDS.items() if name in now}, **stored}


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """One text for each field that differs between two fingerprints; `prefix` is for nested fields.

    Example:
        >>> differences({"layer": "conv1", "config": {"eps": 1}}, {"layer": "conv2", "config": {"eps": 2}})
        ["layer was 'conv1', now 'conv2'", 'config.eps was 1, now 2']
    """
    texts: list[str] = []
    for name in dict.fromkeys([*before, *now]):
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            texts += differences(old, new, f"{prefix}{name}.")
        elif _as_stored(old) != _as_stored(new):
            texts.append(f"{prefix}{name} was {_shown(old)}, now {_shown(new)}")
    return texts


def _as_stored(value: Any) -> Any:
    """A value as JSON gives it back: without tuples."""
    return list(value) if isinstance(value, tuple) else value


def _shown(value: Any) -> str:
    text = repr(_as_stored(value))
    return text if len(text) <= 40 else f"{text[:20]}…{text[-4:]}"
