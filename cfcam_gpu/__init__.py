"""CF-CAM (Cluster Filter Class Activation Mapping) heatmaps for image classifiers, batched in PyTorch."""

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
    "TargetError",
    "explain_activations",
]
