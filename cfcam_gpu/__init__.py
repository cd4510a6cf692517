"""CF-CAM (Cluster Filter Class Activation Mapping) heatmaps for image classifiers, batched in PyTorch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cfcam_gpu.config import PRESETS, CFCAMConfig
    from cfcam_gpu.errors import (
        BackendError,
        CaptureError,
        CFCAMError,
        ConfigError,
        ImageError,
        InputError,
        InvalidImagesError,
        ModelError,
        OutOfMemory,
        TargetError,
    )
    from cfcam_gpu.explainer import CFCAM, Explanation, explain_activations

__version__ = "0.1.0"

__all__ = [
    "CFCAM",
    "PRESETS",
    "BackendError",
    "CFCAMConfig",
    "CFCAMError",
    "CaptureError",
    "ConfigError",
    "Explanation",
    "ImageError",
    "InputError",
    "InvalidImagesError",
    "ModelError",
    "OutOfMemory",
    "TargetError",
    "explain_activations",
]

_HOME = {"CFCAM": "explainer", "Explanation": "explainer", "explain_activations": "explainer"}
_HOME |= {"CFCAMConfig": "config", "PRESETS": "config"}


def __getattr__(name: str) -> Any:
    """The public names, imported when first used: processes that only decode images do without PyTorch."""
    if name not in __all__:
        raise AttributeError(f"module 'cfcam_gpu' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"cfcam_gpu.{_HOME.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
