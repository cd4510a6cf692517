"""CF-CAM (Cluster Filter Class Activation Mapping) heatmaps for image classifiers, batched in PyTorch.

Start with `CFCAM`, which explains the images of a model, or `explain_activations` where you have
activations and gradients already. Whole datasets: `cfcam_gpu.dataset`. Importing this package does
not import PyTorch; the first name that needs it does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cfcam_gpu._utils.lazy import lazy

if TYPE_CHECKING:
    from cfcam_gpu.activations import explain_activations
    from cfcam_gpu.capture.selectors import Above, TopK
    from cfcam_gpu.config import PRESETS, CFCAMConfig
    from cfcam_gpu.errors import (
        BackendError,
        CaptureError,
        CFCAMError,
        ConfigError,
        ImageError,
        InputError,
        InvalidImagesError,
        MissingPackageError,
        ModelError,
        ModelFailedError,
        OutOfMemory,
        PlaceError,
        StoreError,
        TargetError,
        TooManyErrors,
    )
    from cfcam_gpu.explainer import CFCAM
    from cfcam_gpu.explanation import Explanation, Problem
    from cfcam_gpu.images.any_image import overlay
    from cfcam_gpu.recording import Recording

__version__ = "0.1.0"

__all__ = [
    "CFCAM",
    "PRESETS",
    "Above",
    "BackendError",
    "CFCAMConfig",
    "CFCAMError",
    "CaptureError",
    "ConfigError",
    "Explanation",
    "ImageError",
    "InputError",
    "InvalidImagesError",
    "MissingPackageError",
    "ModelError",
    "ModelFailedError",
    "OutOfMemory",
    "PlaceError",
    "Problem",
    "Recording",
    "StoreError",
    "TargetError",
    "TooManyErrors",
    "TopK",
    "explain_activations",
    "overlay",
]

_HOME = dict.fromkeys(__all__, "errors") | {
    "Above": "capture.selectors",
    "CFCAM": "explainer",
    "CFCAMConfig": "config",
    "Explanation": "explanation",
    "PRESETS": "config",
    "Problem": "explanation",
    "Recording": "recording",
    "TopK": "capture.selectors",
    "explain_activations": "activations",
    "overlay": "images.any_image",
}

__getattr__, __dir__ = lazy(__name__, globals(), _HOME)
