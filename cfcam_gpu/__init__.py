"""CF-CAM (Cluster Filter Class Activation Mapping) heatmaps for image classifiers, batched in PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cfcam_gpu._utils.lazy import lazy

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

_HOME = dict.fromkeys(__all__, "errors")
_HOME |= {"CFCAM": "explainer", "Explanation": "explainer", "explain_activations": "explainer"}
_HOME |= {"CFCAMConfig": "config", "PRESETS": "config"}

__getattr__, __dir__ = lazy(__name__, globals(), _HOME)
