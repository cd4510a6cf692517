"""Grad-CAM of other libraries, each used on a batch of images as its documentation says.

Grad-CAM does less than CF-CAM (no clustering, no filter), and it is what people run today. Before a library is
timed, its maps are compared with plain Grad-CAM of the same layer and classes, so that all do the same work. A
library that is not installed, fails or computes something else is reported with the reason.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.common import installed
from cfcam_gpu._utils.messages import one_line
from cfcam_gpu.capture import capture
from cfcam_gpu.capture.layers import find_layer

#: Largest difference from plain Grad-CAM, both scaled to [0, 1]: float32 sums, and other bilinear resizing.
TOLERANCE = 1e-3

#: (images (B,3,H,W), classes (B,)) -> heatmaps (B,H,W), an array or a tensor on any device.
Explain = Callable[[Tensor, Tensor], Any]


@dataclass(frozen=True)
class Peer:
    """Another library.

    Attributes:
        package: name of its distribution; module: name of its module.
        make: (model, name of the layer) -> the function that explains a batch.
    """

    package: str
    module: str
    make: Callable[[nn.Module, str], Explain]


def _pytorch_grad_cam(model: nn.Module, layer: str) -> Explain:
    """From its README: a `with` block; without targets the highest score of each image is explained.

    The object keeps the graph of the whole batch until the block ends.
    """
    from pytorch_grad_cam import GradCAM

    def explain(images: Tensor, _classes: Tensor) -> Any:
        with GradCAM(model=model, target_layers=[model.get_submodule(layer)]) as cam:
            return cam(input_tensor=images, targets=None)

    return explain


def _torch_cam(model: nn.Module, layer: str) -> Explain:
    """From its README: a `with` block, a forward pass, then the extractor with the classes as a list.

    Its maps have the layer's resolution, so they are upsampled here.
    """
    from torchcam.methods import GradCAM

    def explain(images: Tensor, _classes: Tensor) -> Tensor:
        with GradCAM(model, layer) as extractor:
            scores = model(images)
            (maps,) = extractor(scores.argmax(1).tolist(), scores)
        return F.interpolate(maps[:, None], images.shape[2:], mode="bilinear", align_corners=False)[:, 0]

    return explain


def _captum(model: nn.Module, layer: str) -> Explain:
    """From its API page: `attribute` with given classes (it predicts none), then `LayerAttribution.interpolate`."""
    from captum.attr import LayerAttribution, LayerGradCam

    grad_cam = LayerGradCam(model, model.get_submodule(layer))

    def explain(images: Tensor, classes: Tensor) -> Any:
        maps = grad_cam.attribute(images, target=classes, relu_attributions=True)
        return LayerAttribution.interpolate(maps, tuple(images.shape[2:]), interpolate_mode="bilinear")[:, 0]

    return explain


PEERS: dict[str, Peer] = {
    "pytorch-grad-cam": Peer("grad-cam", "pytorch_grad_cam", _pytorch_grad_cam),
    "torch-cam": Peer("torchcam", "torchcam", _torch_cam),
    "captum": Peer("captum", "captum", _captum),
}


def checked_peers(model: nn.Module, layer: str, images: Tensor) -> tuple[dict[str, Explain], dict[str, Any]]:
    """The libraries that compute plain Grad-CAM here, each on a copy of the model; and a report on all of them.

    Returns:
        name -> function that explains a batch; name -> `version`, and the largest `difference` from plain Grad-CAM
        or the reason why it is `not_timed`.
    """
    plain, classes = plain_grad_cam(model, layer, images)
    usable: dict[str, Explain] = {}
    report: dict[str, Any] = {}
    for name, peer in PEERS.items():
        report[name] = {"version": installed(peer.package)}
        try:
            importlib.import_module(peer.module)
        except ImportError as error:
            report[name]["not_timed"] = f"not installed ({error}); pip install 'cfcam-gpu[peers]'"
            continue
        try:
            explain = peer.make(copy.deepcopy(model), layer)
            maps = torch.as_tensor(explain(images, classes)).detach().to(plain)
        except Exception as error:  # whatever another library raises must not end the benchmark
            report[name]["not_timed"] = f"fails: {one_line(error)}"
            continue
        report[name]["difference"] = difference = round(float((scaled(maps) - scaled(plain)).abs().max()), 7)
        if difference <= TOLERANCE:
            usable[name] = explain
        else:
            report[name]["not_timed"] = f"its maps differ from plain Grad-CAM's by {difference:.1e}"
    return usable, report


def plain_grad_cam(model: nn.Module, layer: str, images: Tensor) -> tuple[Tensor, Tensor]:
    """Grad-CAM (Selvaraju et al., 2017) of the predicted classes: unscaled maps (B, H, W), and the classes (B,)."""
    captured = capture(model, find_layer(model, layer), images)
    weights = captured.gradients[:, 0].mean((2, 3), keepdim=True)
    grid = (weights * captured.activations.float()).sum(1, keepdim=True).relu()
    assert captured.targets is not None
    maps = F.interpolate(grid, images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    return maps, captured.targets


def scaled(maps: Tensor) -> Tensor:
    """Maps (B, H, W), each scaled to [0, 1]; a constant map becomes zero."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / torch.where(high > low, high - low, 1)
