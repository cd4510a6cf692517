"""Toy models whose best heatmap is known, and cases made from them, for tests of the metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfcam_gpu.metrics.base import Case


class RegionNet(nn.Module):
    """Two classes: class 0 scores the mean brightness inside a region, class 1 that outside of it."""

    region: Tensor

    def __init__(self, region: Tensor) -> None:
        super().__init__()
        self.register_buffer("region", region.float())

    def forward(self, images: Tensor) -> Tensor:
        grey, region = images.mean(1), self.region
        inside = (grey * region).sum((1, 2)) / region.sum()
        outside = (grey * (1 - region)).sum((1, 2)) / (1 - region).sum()
        return 8 * torch.stack([inside, outside], 1)


class TinyNet(nn.Module):
    """Four classes, random weights from `seed`; `features` is the layer that is explained.

    `gain` multiplies the logits: at 1 the softmax hardly feels the image, at 30 it does. The head is not
    linear in the pooled features and weighs the positions, so gradients vary over the map.
    """

    def __init__(self, seed: int = 1, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = gain
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.features = nn.Sequential(
                nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1), nn.ReLU()
            )
            self.head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 16), nn.ReLU())
            self.classes = nn.Linear(16, 4)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.score(self.features(images))

    def score(self, features: Tensor) -> Tensor:
        logits: Tensor = self.gain * self.classes(self.head(features))
        return logits


#: A model whose softmax feels what is taken from the image.
SENSITIVE = TinyNet(gain=30)


class TinyMaps:
    """Grad-CAM (Selvaraju et al. 2017) on a `TinyNet`; takes images in [0,1] without normalisation."""

    def __init__(self, net: nn.Module, images: Tensor, targets: Tensor) -> None:
        self.module: nn.Module = net
        self.images, self.targets = images, targets
        self.activations, self.gradients = _features(net, images, targets)

    def of_gradients(self, gradients: Tensor) -> Tensor:
        return grad_cam(self.activations, gradients, self.images)

    def of_images(self, images: Tensor, targets: Tensor) -> Tensor:
        if targets.ndim == 2:
            return torch.stack([self.of_images(images, column) for column in targets.T], 1)
        return grad_cam(*_features(self.module, images, targets), images)

    def of_model(self, model: nn.Module) -> Tensor:
        return grad_cam(*_features(model, self.images, self.targets), self.images)


class BrightnessMaps:
    """Of a method that marks the brightness of an image in [0,1], whatever the class and the model."""

    def of_images(self, images: Tensor, _targets: Tensor) -> Tensor:
        return images.mean(1)


def brightness_case(n: int, size: int) -> tuple[Case, RegionNet]:
    """A `region_case` whose maps are the pictures' brightness, no two values of one equal; and its model."""
    case = region_case(lambda region: region, n, size)
    assert case.masks is not None
    heatmaps = case.images.mean(1) * (1 - 1e-3 * random_map(case.heatmaps))
    maps: Any = BrightnessMaps()
    return replace(case, heatmaps=heatmaps, maps=maps), RegionNet(case.masks[0]).eval()


def grad_cam(activations: Tensor, gradients: Tensor, images: Tensor) -> Tensor:
    """Heatmaps (B,H,W) in [0,1], zeros where there is no positive evidence."""
    grid = (gradients.mean((2, 3), keepdim=True) * activations).sum(1, keepdim=True).relu()
    full = F.interpolate(grid, images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    return full / full.amax((1, 2), keepdim=True).clamp_min(1e-12)


def pictures(n: int, size: int = 16, seed: int = 0) -> Tensor:
    """Smooth random images (n,3,size,size) in [0,1]; the i-th does not depend on n."""
    small = torch.stack(
        [torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(97 * seed + i)) for i in range(n)]
    )
    return F.interpolate(small, (size, size), mode="bilinear", align_corners=False)


def random_map(region: Tensor) -> Tensor:
    """Uniform values in [0,1), no two of them equal, of the shape of `region`."""
    return torch.rand(region.shape, generator=torch.Generator().manual_seed(0))


def tiny_case(n: int = 3, size: int = 16, seed: int = 0, net: TinyNet | None = None, **changes: Any) -> Case:
    """`n` pictures explained by Grad-CAM on a tiny network; `changes` replace fields of the case."""
    net, images = net or TinyNet(), pictures(n, size, seed)
    targets = net(images).argmax(1).detach()
    maps = TinyMaps(net, images, targets)
    case = Case.of_heatmaps(_logits(net), images, targets, maps.of_gradients(maps.gradients), maps=maps)
    return replace(case, **{"seeds": case.seeds + 1000, **changes})


def sensitive_case(**changes: Any) -> Case:
    """A `tiny_case` of the model `SENSITIVE`."""
    return tiny_case(net=SENSITIVE, **changes)


def region_case(heatmap: Callable[[Tensor], Tensor], n: int = 2, size: int = 16, **changes: Any) -> Case:
    """`n` grey pictures with a bright square, a quarter of the image in area, where class 0 lies.

    `heatmap` turns the region (H,W), float, into a map (H,W); every image gets that map. The case has no `maps`.
    """
    region = torch.zeros(size, size)
    region[size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = 1
    images = 0.4 + 0.2 * pictures(n, size) + 0.4 * region
    heatmaps = heatmap(region).expand(n, -1, -1).contiguous()
    targets = torch.zeros(n, dtype=torch.int64)
    case = Case.of_heatmaps(_logits(RegionNet(region).eval()), images, targets, heatmaps)
    masks = region.bool().expand(n, -1, -1)
    return replace(case, **{"seeds": case.seeds + 1000, "masks": masks, **changes})


def subset(case: Case, index: slice | Tensor) -> Case:
    """Some of the images of a case whose maps are a `TinyMaps` or are not used."""
    maps = case.maps
    if isinstance(maps, TinyMaps):
        maps = TinyMaps(maps.module, case.images[index], case.targets[index])
    names = ("images", "targets", "clean", "heatmaps", "blank", "seeds", "masks")
    fields = {name: value[index] for name in names if (value := getattr(case, name)) is not None}
    return replace(case, maps=maps, **fields)


def target_probability(case: Case, index: int, image: Tensor) -> float:
    """The probability of the target of image `index` on another image (3,H,W)."""
    return case.model(image[None]).softmax(1)[0, case.targets[index]].item()


def _logits(net: nn.Module) -> Callable[[Tensor], Tensor]:
    def model(images: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = net(images)
            return logits

    return model


def _features(net: Any, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Activations and gradients (B,C,h,w) of a `TinyNet`, or of a copy of one."""
    with torch.enable_grad():
        activations = net.features(images).detach().requires_grad_()
        scores = net.score(activations).gather(1, targets[:, None]).sum()
        return activations.detach(), torch.autograd.grad(scores, activations)[0]
