"""An explanation function as Quantus takes it: `explain_func(model, inputs, targets, **kwargs)`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from cfcam_gpu._utils.device import device_of
from cfcam_gpu.explainer import CFCAM


def explain(
    model: nn.Module,
    inputs: npt.NDArray[np.floating],
    targets: npt.NDArray[np.integer],
    *,
    target_layer: str | nn.Module | None = None,
    method: str = "cfcam",
    **options: Any,
) -> npt.NDArray[np.float32]:
    """Heatmaps (B,1,H,W) in [0,1] of images (B,C,H,W); pass it to a Quantus metric as `explain_func`.

    Args:
        targets: (B,) classes.
        target_layer, method: as for `cfcam_gpu.CFCAM`; Quantus hands them over from `explain_func_kwargs`.
        options: `device`, and further arguments of `cfcam_gpu.CFCAM`; what Quantus adds of its own is left out.

    Raises:
        CFCAMError: as for `cfcam_gpu.CFCAM`.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> explain(model, np.ones((2, 3, 8, 8), np.float32), np.array([0, 1]), target_layer="1").shape
        (2, 1, 8, 8)
    """
    for name in ("xai_lib", "xai_lib_kwargs", "gc_layer", "normalise", "abs", "device"):
        options.pop(name, None)
    device = device_of(model)
    cam = CFCAM(model, target_layer, method=method, **{"on_invalid": "flag", **options})
    images = torch.as_tensor(np.asarray(inputs), dtype=torch.float32).to(device)
    result = cam(images, targets=[int(target) for target in np.asarray(targets).reshape(-1)])
    return np.asarray(result.heatmap[:, None].cpu().numpy(), np.float32)
