"""What makes two runs the same run, and how two of them differ."""

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
from cfcam_gpu.dataset.execution.batch_explainer import BatchExplainer
from cfcam_gpu.dataset.options import PART_SIZE, RunOptions


def weights_hash(model: nn.Module) -> str:
    """SHA-256 of all parameters and buffers with their names, types and shapes; equal on any device."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            if value.numel():
                flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
                digest.update(flat.numpy().data)
    return digest.hexdigest()


def text_hash(lines: tuple[str, ...] | None) -> str | None:
    """Short hash of the class names."""
    return None if lines is None else hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def versions() -> dict[str, str | None]:
    """Of what the numbers depend on."""
    found: dict[str, str | None] = {"cfcam_gpu": cfcam_gpu.__version__}
    for package in ("torch", "torchvision"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def fingerprint(explainer: BatchExplainer, weights: str, options: RunOptions) -> dict[str, Any]:
    """What must be equal for a run to go on; `weights` is the hash of the model before it was prepared."""
    loaded, target = explainer.loaded, explainer.target
    pictures = {"kind": options.overlays, "cmap": options.cmap, "alpha": options.alpha}
    return {
        "method": options.method,
        "config": dataclasses.asdict(options.config),
        "model": loaded.spec,
        "weights_sha256": weights,
        "layer": explainer.cam.layer_name,
        "finer_layer": explainer.cam.finer_layer_name,
        "preprocess": dataclasses.asdict(loaded.preprocess),
        "target": target,
        "class_names": text_hash(loaded.class_names),
        "precision": options.precision,
        "channels_last": options.channels_last,
        "fold_batchnorm": options.fold_batchnorm,
        "overlays": {"kind": "none"} if options.overlays == "none" else pictures,
        "versions": versions(),
    }


def about(explainer: BatchExplainer, weights: str, options: RunOptions) -> dict[str, Any]:
    """The content of run.json, but for what depends on the samples."""
    loaded, device = explainer.loaded, explainer.device
    info = {
        "weights": loaded.weights,
        "engine": explainer.cam.engine_name,
        "device": str(device),
        "precision": options.precision,
        "batch_size": options.batch_size,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": [os.path.basename(sys.argv[0]), *sys.argv[1:]],
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


#: What a fingerprint of before the entry was made stands for.
EARLIER = {"method": "cfcam"}


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """`field: old, now new` for every field that differs, nested ones by their path."""
    found: list[str] = []
    for name in dict.fromkeys([*old, *new]):
        before, after = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += differences(before, after, f"{prefix}{name}.")
        elif _plain(before) != _plain(after):
            found.append(f"{prefix}{name} was {_shown(before)}, now {_shown(after)}")
    return found


def _plain(value: Any) -> Any:
    """JSON knows no tuples."""
    return list(value) if isinstance(value, tuple) else value


def _shown(value: Any) -> str:
    text = repr(_plain(value))
    return text if len(text) <= 40 else f"{text[:20]}…{text[-4:]}"
