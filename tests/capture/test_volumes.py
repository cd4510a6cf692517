"""Volumes: MONAI's DenseNet and a small 3-D network, by every method that looks at one layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kornia.filters import filter3d, get_gaussian_kernel3d
from torch import Tensor, nn

from cfcam_gpu import CFCAM, CaptureError, CFCAMConfig, ConfigError
from cfcam_gpu.methods import METHODS
from tests.helpers.volumes import filtered_volume

ONE_LAYER = [name for name, method in METHODS.items() if not method.needs_finer]


class Net3d(nn.Module):
    """Its head is no global pool, so that gradients differ from cell to cell."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(1, 6, 3, 2, 1)
        self.conv2 = nn.Conv3d(6, 9, 3, (1, 2, 2), 1)
        self.fc = nn.Linear(9 * 3 * 4 * 5, 4)

    def forward(self, volumes: Tensor) -> Tensor:
        maps = F.relu(self.conv2(F.relu(self.conv1(volumes))))
        return torch.as_tensor(self.fc(maps.flatten(1)))


@pytest.fixture
def net() -> Net3d:
    torch.manual_seed(0)
    return Net3d().eval()


@pytest.fixture
def volumes() -> Tensor:
    return torch.rand(2, 1, 6, 16, 20, generator=torch.Generator().manual_seed(1))


def by_hand(net: Net3d, volumes: Tensor, target: int) -> tuple[Tensor, Tensor]:
    """Activations and gradients (B,C,d,h,w) of the last convolution after its ReLU."""
    maps = F.relu(net.conv2(F.relu(net.conv1(volumes)))).detach().requires_grad_()
    (gradients,) = torch.autograd.grad(net.fc(maps.flatten(1))[:, target].sum(), maps)
    return maps.detach(), gradients


MAPS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gradcam": lambda a, g: (g.mean((2, 3, 4), keepdim=True) * a).sum(1).relu(),
    "hirescam": lambda a, g: (g * a).sum(1).relu(),
    "layercam": lambda a, g: (g.relu() * a).sum(1).relu(),
    "xgradcam": lambda a, g: (
        ((g * a).sum((2, 3, 4)) / (a.sum((2, 3, 4)) + 1e-7))[:, :, None, None, None] * a
    ).sum(1).relu(),
}  # fmt: skip


@pytest.mark.parametrize("method", MAPS)
def test_maps_of_volumes_are_those_made_by_hand(net: Net3d, volumes: Tensor, method: str) -> None:
    cam = CFCAM(net, method=method)
    result = cam(volumes, 2)
    assert cam.layer_name == "conv2:relu"
    grid = MAPS[method](*by_hand(net, volumes, 2))
    assert grid.shape == (2, 3, 4, 5)
    torch.testing.assert_close(result.grid, grid, atol=1e-6, rtol=1e-4)
    upsampled = F.interpolate(grid[:, None], (6, 16, 20), mode="trilinear", align_corners=False)[:, 0]
    peak = upsampled.amax((1, 2, 3))
    torch.testing.assert_close(result.heatmap, upsampled / peak.clamp_min(1e-30)[:, None, None, None])
    torch.testing.assert_close(result.peak, peak)
    torch.testing.assert_close(result.logits, net(volumes).detach())


@pytest.mark.parametrize("method", ONE_LAYER)
def test_every_method_of_one_layer_explains_volumes_and_each_alike_alone(
    net: Net3d, volumes: Tensor, method: str
) -> None:
    cam = CFCAM(net, method=method)
    result = cam(volumes, [[0, 1], [2, 3]])
    assert result.heatmap.shape == (2, 2, 6, 16, 20)
    assert result.grid.shape == (2, 2, 3, 4, 5)
    assert bool(result.heatmap.isfinite().all())
    assert not bool(result.blank.all())
    alone = cam(volumes[1:], [[2, 3]])
    torch.testing.assert_close(alone.heatmap, result.heatmap[1:], atol=1e-4, rtol=0)


def test_ablation_by_hand(net: Net3d, volumes: Tensor) -> None:
    activations, _ = by_hand(net, volumes, 0)
    whole = net.fc(activations.flatten(1))[:, 0]
    drops = []
    for channel in range(9):
        without = activations.clone()
        without[:, channel] = 0
        drops.append(whole - net.fc(without.flatten(1))[:, 0])
    grid = (torch.stack(drops, 1).detach()[:, :, None, None, None] * activations).sum(1).relu()
    result = CFCAM(net, method="ablationcam")(volumes, 0)
    torch.testing.assert_close(result.grid, grid, atol=1e-5, rtol=1e-4)


def test_scorecam_by_hand(net: Net3d, volumes: Tensor) -> None:
    activations, _ = by_hand(net, volumes, 0)
    masks = F.interpolate(activations, (6, 16, 20), mode="trilinear", align_corners=False)
    low, high = masks.amin((2, 3, 4), keepdim=True), masks.amax((2, 3, 4), keepdim=True)
    masks = (masks - low) / (high - low).clamp_min(1e-30)
    scores = torch.stack([net(volumes * masks[:, c : c + 1])[:, 1] for c in range(9)], 1).detach()
    grid = (scores.softmax(1)[:, :, None, None, None] * activations).sum(1).relu()
    torch.testing.assert_close(CFCAM(net, method="scorecam")(volumes, 1).grid, grid, atol=1e-5, rtol=1e-4)


def test_reciprocam_by_hand(net: Net3d, volumes: Tensor) -> None:
    activations, _ = by_hand(net, volumes, 0)
    cells = torch.eye(60).view(60, 1, 3, 4, 5)
    alone = [net.fc((one * cells).flatten(1)).softmax(1)[:, 1].view(3, 4, 5).detach() for one in activations]
    grid = torch.stack([one - one.min() for one in alone])
    torch.testing.assert_close(CFCAM(net, method="reciprocam")(volumes, 1).grid, grid, atol=1e-6, rtol=1e-3)


def test_groupcam_by_hand(net: Net3d, volumes: Tensor) -> None:
    """Nine channels are nine groups; the blur's window ends where the volume's sides allow no further reflection."""
    activations, gradients = by_hand(net, volumes, 1)
    maps = (gradients.mean((2, 3, 4), keepdim=True) * activations).relu()
    masks = F.interpolate(maps, (6, 16, 20), mode="trilinear", align_corners=False)
    low, high = masks.amin((2, 3, 4), keepdim=True), masks.amax((2, 3, 4), keepdim=True)
    masks = (masks - low) / (high - low).clamp_min(1e-30)
    window = get_gaussian_kernel3d((11, 31, 39), (50.0, 50.0, 50.0))
    hidden = filter3d(volumes, window, border_type="reflect")
    base = net(hidden).softmax(1)[:, 1]
    gains = [
        net(volumes * masks[:, c : c + 1] + hidden * (1 - masks[:, c : c + 1])).softmax(1)[:, 1] - base
        for c in range(9)
    ]
    grid = (torch.stack(gains, 1).detach().relu()[:, :, None, None, None] * maps).sum(1)
    torch.testing.assert_close(CFCAM(net, method="groupcam")(volumes, 1).grid, grid, atol=1e-6, rtol=1e-3)


def test_cfcam_clusters_whole_volumes_and_filters_in_three_dimensions(net: Net3d, volumes: Tensor) -> None:
    config = CFCAMConfig(dominant_percentile=None, eps_percentile=60, sigma_space=1.5)
    result = CFCAM(net, config=config)(volumes, 2)
    activations, gradients = by_hand(net, volumes, 2)
    assert result.labels is not None
    assert bool((result.labels >= 0).any())
    for i in range(2):
        weights = torch.zeros(9)
        for cluster in range(int(result.labels[i].max()) + 1):
            members = result.labels[i] == cluster
            mean = gradients[i][members].mean(0)
            weights[members] = filtered_volume(mean, config, ball=True, ranged=True).mean().float()
        grid = (weights[:, None, None, None] * activations[i]).sum(0).relu()
        torch.testing.assert_close(result.grid[i], grid, atol=1e-5 * float(grid.max()), rtol=1e-4)


def test_monais_densenet() -> None:
    nets = pytest.importorskip("monai.networks.nets")
    torch.manual_seed(0)
    model = nets.DenseNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=3,
        init_features=8,
        growth_rate=4,
        block_config=(2, 2),
        bn_size=2,
    ).eval()
    images = torch.rand(2, 1, 32, 40, 48, generator=torch.Generator().manual_seed(1))
    cam = CFCAM(model, method="gradcam")
    result = cam(images, 1)
    assert cam.layer_name == "class_layers.relu"
    maps = model.features(images).relu().detach().requires_grad_()
    score = model.class_layers[1:](maps)[:, 1].sum()
    (gradients,) = torch.autograd.grad(score, maps)
    grid = MAPS["gradcam"](maps.detach(), gradients)
    torch.testing.assert_close(result.grid, grid, atol=1e-6, rtol=1e-4)
    assert result.heatmap.shape == (2, 32, 40, 48)
    named = CFCAM(model, "features.denseblock1", method="layercam")(images, 1)
    assert named.grid.shape == (2, 8, 10, 12)


def test_volumes_of_another_size_and_several_layers(net: Net3d, volumes: Tensor) -> None:
    pooled = nn.Sequential(
        net.conv1, nn.ReLU(), net.conv2, nn.ReLU(), nn.AdaptiveAvgPool3d((3, 4, 5)), nn.Flatten()
    )
    model = nn.Sequential(*pooled, net.fc).eval()
    cam = CFCAM(model, ["1", "3"], method="hirescam")
    small = cam(volumes, 1)
    assert small.grid.shape == (2, 3, 8, 10)
    assert cam(F.interpolate(volumes, (12, 20, 24)), 1).heatmap.shape == (2, 12, 20, 24)
    torch.testing.assert_close(cam(volumes, 1).heatmap, small.heatmap)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "filter": (
        {"config": CFCAMConfig.preset("upstream")},
        "filter 'upstream' has no form for volumes; choose one of",
    ),
    "engine": ({"engine": "reference"}, "engine 'reference' does not explain volumes; use engine 'torch'"),
    "views": ({"flip": True}, "an explainer of several sizes or mirror images does not explain volumes"),
    "layout": (
        {"layout": "nchw"},
        "an explainer with a layout or reshape_transform does not explain volumes",
    ),
    **{
        name: ({"method": name}, f"method '{name}' looks at a second layer and does not explain volumes")
        for name, method in METHODS.items()
        if method.needs_finer
    },
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_explain_volumes_says_so(net: Net3d, volumes: Tensor, name: str) -> None:
    options, message = REFUSED[name]
    with pytest.raises(ConfigError, match=message):
        CFCAM(net, **options)(volumes, 1)


def test_layers_without_a_map_of_the_volume(net: Net3d, volumes: Tensor) -> None:
    with pytest.raises(
        CaptureError, match=r"target layer 'fc' must put out a map of the volume, \(B,C,d,h,w\), got a"
    ):
        CFCAM(net, "fc")(volumes, 1)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(6 * 16 * 20, 2))
    with pytest.raises(CaptureError, match=r"no layer of the model has a map \(B,C,d,h,w\) of the volume"):
        CFCAM(flat)(volumes, 1)
