"""`CFCAM` from end to end: what reaches the maps, and the errors of wrong images."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cfcam_gpu import CFCAM, CaptureError, CFCAMConfig
from tests.helpers.capture_net import Net, make_images, make_net


@pytest.fixture
def net() -> Net:
    return make_net()


@pytest.fixture
def images() -> Tensor:
    return make_images()


BAD_IMAGES: dict[str, tuple[Any, str]] = {
    "no batch axis": (torch.zeros(3, 8, 8), r"got a float32 tensor of shape \(3, 8, 8\).*image\[None\]"),
    "bytes": (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), r"got a uint8 tensor"),
    "empty batch": (torch.zeros(0, 3, 8, 8), r"at least one image"),
    "array": ([[0.0]], r"got a list"),
    "elsewhere": (
        torch.zeros(1, 3, 8, 8, device="meta"),
        r"images are on meta, the model on cpu; call images.to\('cpu'\)",
    ),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_wrong_images_are_errors(net, name):
    images, message = BAD_IMAGES[name]
    with pytest.raises(CaptureError, match=re.compile(message, re.DOTALL)):
        CFCAM(net, "relu")(images)


def test_one_channel_images_and_the_config_reach_the_maps(images):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 80, 2)).eval()
    maps = [CFCAM(model, "1", CFCAMConfig.preset(p))(images[:, :1]).heatmap for p in ("default", "upstream")]
    assert maps[0].shape == (3, 12, 10)
    assert not torch.allclose(maps[0], maps[1])


def test_channels_last(net, images):
    expected = CFCAM(net, "relu")(images).heatmap
    found = CFCAM(net.to(memory_format=torch.channels_last), "relu")(
        images.to(memory_format=torch.channels_last)
    )
    torch.testing.assert_close(found.heatmap, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.02), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("how", ["converted", "autocast"])
def test_half_precision_models_cluster_in_float32(net, images, dtype, tolerance, how):
    expected = CFCAM(net, "relu")(images, targets=1)
    if how == "converted":
        found = CFCAM(net.to(dtype), "relu")(images, targets=1)
    else:
        with torch.autocast("cpu", dtype):
            found = CFCAM(net, "relu")(images, targets=1)
            assert torch.is_autocast_enabled("cpu")
    assert found.heatmap.dtype == found.grid.dtype == torch.float32
    torch.testing.assert_close(found.heatmap, expected.heatmap, rtol=0, atol=tolerance)


def test_the_callers_autocast_and_tf32_do_not_reach_the_clustering(net, images):
    plain = CFCAM(net, "relu")(images, targets=1).heatmap
    try:
        torch.set_float32_matmul_precision("medium")
        assert torch.equal(CFCAM(net, "relu")(images, targets=1).heatmap, plain)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
