"""Several sizes and mirror images: what they are joined to, and models that take no other size."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from cfcam_gpu import CFCAM, CaptureError, ConfigError
from cfcam_gpu.dataset import open_results
from cfcam_gpu.errors import StoreError
from cfcam_gpu.methods import METHODS
from cfcam_gpu.methods.views import image_views
from tests.helpers.method_cases import CLOSE, Deeper
from tests.helpers.smallnet import PLAIN, Net, photo, run, save

SCALES = (2.0, 1.0, 0.5)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return Deeper().eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 3 - 1


def explained(
    net: nn.Module, images: torch.Tensor, targets: Any, method: str = "gradcam", **kwargs: Any
) -> Any:
    finer = "stem" if METHODS[method].needs_finer else None
    with CFCAM(net, "conv:relu", method=method, finer_layer=finer, **kwargs) as cam:
        return cam(images, targets)


@pytest.mark.parametrize("method", ["cfcam", "cfcam-sharp", "gradcam", "scorecam", "eigencam"])
def test_the_maps_of_each_size_over_their_maxima_are_averaged(net, images, method):
    targets = torch.tensor([[0, 1], [2, 0], [1, 2]])
    found = explained(net, images, targets, method, scales=SCALES)
    alone = []
    for side in (64, 32, 16):
        view = images if side == 32 else F.interpolate(images, (side, side), mode="bilinear", antialias=True)
        alone.append(explained(net, view, targets, method).grid)
    shape = alone[0].shape[2:]
    peaks = [grid.amax((2, 3), keepdim=True).clamp_min(1e-30) for grid in alone]
    grids = [
        F.interpolate(grid / peak, shape, mode="bilinear") for grid, peak in zip(alone, peaks, strict=True)
    ]
    mean = torch.stack(grids).mean(0)
    torch.testing.assert_close(found.grid, mean, **CLOSE)
    heatmap = F.interpolate(mean, (32, 32), mode="bilinear")
    torch.testing.assert_close(found.heatmap, heatmap / heatmap.amax((2, 3), keepdim=True), **CLOSE)
    assert torch.equal(found.logits, explained(net, images, targets, method).logits)


def test_mirror_images_are_turned_back(net, images):
    found = explained(net, images, 1, flip=True)
    plain, mirrored = explained(net, images, 1), explained(net, images.flip(3), 1)
    expected = (plain.grid / plain.grid.amax((1, 2), keepdim=True)) / 2
    expected += (mirrored.grid / mirrored.grid.amax((1, 2), keepdim=True)).flip(2) / 2
    torch.testing.assert_close(found.grid, expected, **CLOSE)
    both = explained(net, images, 1, flip=True, scales=(1.0, 2.0))
    torch.testing.assert_close(
        explained(net, images.flip(3), 1, flip=True, scales=(1.0, 2.0)).grid.flip(2), both.grid
    )


def test_predicted_classes_and_functions_are_those_of_the_image_as_given(net, images):
    found = explained(net, images, None, scales=(2.0,))
    plain = explained(net, images, None)
    assert torch.equal(found.targets, plain.targets)
    expected = explained(net, images, plain.targets, scales=(2.0,))
    torch.testing.assert_close(found.grid, expected.grid)
    functions = [lambda logits, k=k: logits[k] for k in plain.targets.tolist()]
    torch.testing.assert_close(explained(net, images, functions, scales=(2.0,)).grid, expected.grid)


def test_a_batch_equals_its_images_and_a_bad_image_disturbs_none(net, images):
    broken = images.clone()
    broken[1, 0, 5, 5] = torch.nan
    found = explained(net, broken, [0, 1, 2], scales=SCALES, on_invalid="flag")
    assert found.status.tolist() == [0, 1, 0]
    assert not found.heatmap[1].any()
    for index, target in ((0, 0), (2, 2)):
        alone = explained(net, images[index : index + 1], target, scales=SCALES)
        torch.testing.assert_close(found.grid[index], alone.grid[0], **CLOSE)


def test_features_of_another_explainer_are_explained_at_every_size(net, images):
    features = CFCAM(net, "conv:relu", method="cfcam").features(images, 1)
    cam = CFCAM(net, "conv:relu", method="gradcam", scales=SCALES, flip=True)
    torch.testing.assert_close(cam.explain(features).grid, cam(images, 1).grid)


def test_features_of_another_layer_are_explained_at_that_layer_at_every_size(net, images):
    features = CFCAM(net, "stem", method="gradcam").features(images, 1)
    cam = CFCAM(net, "conv:relu", method="gradcam", scales=SCALES, flip=True)
    expected = CFCAM(net, "stem", method="gradcam", scales=SCALES, flip=True)(images, 1)
    torch.testing.assert_close(cam.explain(features).grid, expected.grid)
    assert not torch.allclose(cam.explain(features).heatmap, cam(images, 1).heatmap, atol=0.05)


def test_every_size_runs_under_the_autocast_in_which_the_features_were_captured(net, images):
    cam = CFCAM(net, "conv:relu", method="gradcam", scales=SCALES, flip=True)
    with torch.autocast("cpu", torch.bfloat16):
        features, expected = cam.features(images, 1), cam(images, 1)
    assert torch.equal(cam.explain(features).grid, expected.grid)
    assert not torch.equal(cam(images, 1).grid, expected.grid)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_models_of_every_precision_at_several_sizes(net, images, dtype):
    model = copy.deepcopy(net).to(dtype)
    found = explained(model, images.to(dtype), 1, scales=SCALES, flip=True)
    expected = explained(net, images, 1, scales=SCALES, flip=True)
    torch.testing.assert_close(found.heatmap, expected.heatmap, rtol=0, atol=0.05)


class Compared(nn.Module):
    """Subtracts a second picture's maps."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: torch.Tensor, other: Any) -> Any:
        return self.net(images) - (self.net(other) if isinstance(other, torch.Tensor) else other)


@pytest.mark.parametrize("how", [{"scales": SCALES}, {"flip": True}])
def test_sizes_and_mirror_images_of_one_picture_of_two_are_refused(net, images, how):
    cam = CFCAM(Compared(net), "net.conv:relu", method="gradcam", call=0, **how)
    with pytest.raises(CaptureError, match=r"but forward_args\[0\] has their height and width too; leave"):
        cam(images, 1, forward_args=(images,))
    torch.testing.assert_close(
        cam(images, 1, forward_args=(0.5,)).grid, explained(net, images, 1, **how).grid
    )


def test_the_finer_layer_is_that_of_the_layer_of_the_features():
    model = timm.create_model("resnet10t", num_classes=4).eval()
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    cam = CFCAM(model, "layer2", method="gradcam-fine")
    of_layer_2 = cam(images, 1).grid
    later = CFCAM(model, "layer4", method="gradcam")
    expected = CFCAM(model, "layer4", method="gradcam-fine")(images, 1)
    assert torch.equal(cam.explain(later.features(images, 1)).grid, expected.grid)
    assert torch.equal(cam(images, 1).grid, of_layer_2)


@pytest.mark.parametrize("scales", [(), (0.0,), (-1.0, 1.0), (1.0, 1.0), (float("nan"),), (9.0,), ("a",)])
def test_scales_that_are_none(net, scales):
    with pytest.raises(ConfigError, match="scales must be different numbers above 0 and up to 8"):
        CFCAM(net, scales=scales)


def test_the_view_nearest_to_the_image_comes_first():
    assert [view.scale for view in image_views((2.0, 0.7, 1.2), flip=False)] == [1.2, 0.7, 2.0]


def test_a_model_of_one_size_says_so(images):
    flat = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 32 * 32, 2))
    with pytest.raises(
        CaptureError, match=r"takes no images of 64x64, scale 2 of 32x32 .*; leave scales out"
    ):
        CFCAM(flat, "1", method="gradcam", scales=(1.0, 2.0))(images)


def vit(**more: Any) -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=3, **more
    )
    return made.eval()


def test_a_transformer_with_interpolated_positions(images):
    cam = CFCAM(vit(dynamic_img_size=True), "blocks.0", method="layercam", layout="tokens", scales=(1.0, 2.0))
    found = cam(images, 1)
    assert found.grid.shape == (3, 8, 8)
    large = CFCAM(vit(dynamic_img_size=True), "blocks.0", method="layercam", layout="tokens")
    doubled = large(F.interpolate(images, (64, 64), mode="bilinear"), 1).grid
    plain = CFCAM(vit(), "blocks.0", method="layercam", layout="tokens")(images, 1).grid
    plain = F.interpolate((plain / plain.amax((1, 2), keepdim=True))[:, None], (8, 8), mode="bilinear")[:, 0]
    torch.testing.assert_close(
        found.grid, (plain + doubled / doubled.amax((1, 2), keepdim=True)) / 2, **CLOSE
    )


def test_a_transformer_of_one_size_says_what_to_load(images):
    with pytest.raises(CaptureError, match="dynamic_img_size=True"):
        CFCAM(vit(), "blocks.0", method="layercam", layout="tokens", scales=(1.0, 2.0))(images)


def test_a_dataset_run_averages_and_remembers_it(tmp_path):
    folder, out = save(tmp_path / "in", a=photo(1)), tmp_path / "out"
    run(folder, out, method="gradcam", scales=(1.0, 2.0), flip=True)
    (row,) = open_results(out).rows()
    pixels = PLAIN.normalise(torch.from_numpy(PLAIN.view(photo(1)))[None])
    cam = CFCAM(Net().eval(), "conv:relu", method="gradcam", scales=(1.0, 2.0), flip=True)
    torch.testing.assert_close(torch.tensor(row["grid"]), cam(pixels).grid[0], **CLOSE)
    with pytest.raises(StoreError, match=r"scales was \[1.0, 2.0\], now \[1.0\]"):
        run(folder, out, method="gradcam", flip=True)


def test_a_run_of_an_earlier_version_had_one_size(tmp_path):
    folder, out = save(tmp_path / "in", a=photo(1)), tmp_path / "out"
    run(folder, out, method="gradcam")
    stored = json.loads((out / "run.json").read_text())
    del stored["fingerprint"]["scales"], stored["fingerprint"]["flip"]
    (out / "run.json").write_text(json.dumps(stored))
    assert run(folder, out, method="gradcam").before == 1
