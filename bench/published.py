"""The steps of the published code, one image at a time: the cost of CF-CAM before this project.

As in the published code (repository jerryp-hfut/CF-CAM), the backward pass goes through the whole model and
leaves a gradient in every parameter, the distances between channels are a C×C×(h·w) broadcast in NumPy, DBSCAN
is scikit-learn's, and the weights pass through a softmax.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.cluster import DBSCAN
from torch import Tensor, nn


def published_steps(model: nn.Module, layer: nn.Module, image: Tensor) -> np.ndarray:
    """Heatmap (H, W) in [0, 1] of the predicted class of an image (1, 3, H, W).

    The clustering runs on the CPU. As in the published code, the parameters keep their gradients.
    """
    captured: dict[str, Tensor] = {}

    def keep_gradients(_module: nn.Module, _inputs: Any, outputs: Any) -> None:
        captured["gradients"] = outputs[0]

    handles = [
        layer.register_forward_hook(lambda _module, _inputs, output: captured.update(activations=output)),
        layer.register_full_backward_hook(keep_gradients),
    ]
    model.zero_grad()
    logits = model(image)
    logits[0, int(logits.argmax())].backward()
    for handle in handles:
        handle.remove()
    activations, gradients = (captured[name].detach()[0].cpu() for name in ("activations", "gradients"))

    labels = _labels(activations.flatten(1).numpy())
    weights = torch.zeros(len(activations))
    for channel in np.flatnonzero(labels == -2):
        weights[channel] = gradients[channel].mean()
    for cluster in range(labels.max() + 1):
        members = np.flatnonzero(labels == cluster)
        filtered = _filter(gradients[members].mean(dim=0))
        for channel in members:
            weights[channel] = filtered.mean()
    valid = torch.from_numpy(labels != -1)
    weights = torch.softmax(weights[valid], dim=0)
    cam = torch.relu((weights[:, None, None] * activations[valid]).sum(dim=0))
    cam = F.interpolate(cam[None, None], size=image.shape[2:], mode="bilinear", align_corners=False)[0, 0]
    return (cam / cam.max() if cam.max() > 0 else cam).numpy()


def _labels(features: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(features, axis=1)
    rest = np.flatnonzero(norms < np.percentile(norms, 75))
    distances = np.linalg.norm(features[rest, None] - features[None, rest], axis=2)
    np.fill_diagonal(distances, np.inf)
    eps = max(np.percentile(distances[distances != np.inf], 25), 1e-5)
    labels = np.full(len(features), -2)
    labels[rest] = DBSCAN(eps=eps, min_samples=max(2, int(0.05 * len(rest)))).fit(features[rest]).labels_
    return labels


def _filter(gradient: Tensor) -> Tensor:
    h, w = gradient.shape
    rows, columns = torch.arange(h) - h / 2, torch.arange(w) - w / 2
    kernel = torch.exp(-(rows[:, None] ** 2 + columns[None, :] ** 2) / (2 * 5.0**2))
    kernel = kernel * torch.exp(-((gradient - gradient.mean()) ** 2) / (2 * 0.1**2))
    kernel = kernel / (kernel.sum() + 1e-6)
    return F.conv2d(gradient[None, None], kernel[None, None], padding="same")[0, 0]
